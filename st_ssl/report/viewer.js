// Clouds that can be turned: drag; once touched, the wheel and + - zoom and arrows turn; double click resets.
// Drawn point by point with a depth buffer, as clouds.py draws the stills that this takes the place of.
(() => {
  "use strict";
  const DISTANCE = 3.2, FILL = 0.88, RIM = 1.4, HAZE = 0.4, LARGEST = 12, POINT = 0.45, FAR = 1e9;
  const RANGE = 4 / 32767; // what one step of a stored coordinate is, in radii
  const bytes = text => Uint8Array.from(atob(text), letter => letter.charCodeAt(0));

  function ball(radius) { // as _ball in clouds.py: steps right and down, and light
    const pixels = [], reach = Math.floor(radius), wide = radius + 0.5;
    for (let y = -reach; y <= reach; y++) for (let x = -reach; x <= reach; x++) {
      if (x * x + y * y > radius * radius) continue;
      const out = Math.sqrt(Math.max(0, 1 - (x * x + y * y) / (wide * wide)));
      pixels.push([x, y, radius < 2.5 ? 1 : 0.62 + 0.46 * Math.max(0, (-0.4 * x - 0.6 * y) / wide + 0.69 * out)]);
    }
    return pixels;
  }

  class Stage {
    constructor(box) {
      this.box = box;
      this.start = box.dataset.eye.split(",").map(Number);
      this.clouds = [];
      for (const text of box.dataset.clouds.split(",")) { // places (=: those of the one before) : colours
        const [xyz, rgb] = text.split(":");
        const places = xyz === "=" ? this.clouds[this.clouds.length - 1].places : new Int16Array(bytes(xyz).buffer);
        this.clouds.push({ places, rgb: bytes(rgb) });
      }
      const [ends, rgb] = (box.dataset.links || ":").split(":");
      this.links = { places: new Int16Array(bytes(ends).buffer), rgb: bytes(rgb) };
      this.canvas = document.createElement("canvas");
      this.canvas.tabIndex = 0;
      this.canvas.setAttribute("role", "img");
      this.canvas.setAttribute("aria-label", box.querySelector("img").alt);
      this.brush = this.canvas.getContext("2d");
      this.listen();
      this.reset();
      this.draw();
      box.replaceChildren(this.canvas);
      new ResizeObserver(() => this.ask()).observe(box);
    }

    reset() { [this.turn, this.tilt] = this.start; this.zoom = 1; this.ask(); }

    change(turn, tilt, zoom) {
      this.turn += turn;
      this.tilt = Math.max(-90, Math.min(90, this.tilt + tilt));
      this.zoom = Math.max(0.4, Math.min(20, this.zoom * zoom));
      this.ask();
    }

    listen() {
      const canvas = this.canvas, keys = { ArrowLeft: [-8, 0, 1], ArrowRight: [8, 0, 1], ArrowUp: [0, 6, 1],
        ArrowDown: [0, -6, 1], "+": [0, 0, 1.2], "-": [0, 0, 1 / 1.2] };
      canvas.addEventListener("pointerdown", event => { canvas.setPointerCapture(event.pointerId); canvas.focus({ preventScroll: true }); });
      canvas.addEventListener("pointermove", event => {
        if (canvas.hasPointerCapture(event.pointerId)) this.change(-0.5 * event.movementX, 0.4 * event.movementY, 1);
      });
      canvas.addEventListener("wheel", event => { // before it was touched the wheel scrolls the page
        if (document.activeElement !== canvas) return;
        event.preventDefault();
        this.change(0, 0, Math.exp(-0.0015 * event.deltaY));
      }, { passive: false });
      canvas.addEventListener("pointerleave", () => canvas.blur());
      canvas.addEventListener("dblclick", () => this.reset());
      canvas.addEventListener("keydown", event => {
        if (!keys[event.key]) return;
        event.preventDefault();
        this.change(...keys[event.key]);
      });
    }

    ask() { this.asked ||= requestAnimationFrame(() => { this.asked = 0; this.draw(); }); }

    // Column, row and depth of the coordinates at i of places, in a picture of size pixels.
    place(places, i, size) {
      const [ct, st, cu, su] = this.angles, x = places[i] * RANGE, y = places[i + 1] * RANGE, z = places[i + 2] * RANGE;
      const flat = y * ct - x * st, away = flat * cu - z * su;
      const near = size / 2 * FILL * this.zoom * DISTANCE / Math.max(DISTANCE + away, 0.3);
      return [size / 2 + (x * ct + y * st) * near, size / 2 - (z * cu + flat * su) * near, 1 + away];
    }

    draw() {
      const fine = Math.max(1.5, window.devicePixelRatio || 1), count = this.clouds.length;
      const size = Math.floor(this.box.clientWidth / count * fine);
      if (size < 8) return;
      const radians = Math.PI / 180;
      this.angles = [this.turn, this.tilt].flatMap(a => [Math.cos(a * radians), Math.sin(a * radians)]);
      const most = Math.max(1, ...this.clouds.map(cloud => cloud.places.length / 3)); // one size of points for all
      this.canvas.width = size * count;
      this.canvas.height = size;
      this.clouds.forEach((cloud, column) => this.brush.putImageData(this.picture(cloud, size, most), column * size, 0));
      this.drawLinks(size, fine);
    }

    picture({ places, rgb }, size, most) {
      const depth = new Float32Array(size * size).fill(FAR), image = new ImageData(size, size), ink = image.data;
      const radius = Math.min(LARGEST * size / 440, Math.max(0.5, POINT * size / Math.sqrt(most))) * Math.sqrt(this.zoom);
      const pixels = ball(Math.min(radius, 24));
      for (let i = 0; i < places.length; i += 3) {
        const [x, y, z] = this.place(places, i, size);
        if (z < -2 || x < -25 || y < -25 || x > size + 25 || y > size + 25) continue;
        for (const [right, down, light] of pixels) {
          const u = Math.floor(x) + right, v = Math.floor(y) + down, at = v * size + u;
          if (u < 0 || v < 0 || u >= size || v >= size || z >= depth[at]) continue;
          depth[at] = z;
          ink[4 * at] = rgb[i] * light; ink[4 * at + 1] = rgb[i + 1] * light; ink[4 * at + 2] = rgb[i + 2] * light;
        }
      }
      const step = Math.max(1, Math.round(size / 300));
      for (let v = 0, at = 0; v < size; v++) for (let u = 0; u < size; u++, at++) { // dark rims, and haze
        const z = depth[at];
        if (z === FAR) continue;
        let behind = 0;
        if (u >= step) behind += Math.max(0, z - depth[at - step]);
        if (u < size - step) behind += Math.max(0, z - depth[at + step]);
        if (v >= step) behind += Math.max(0, z - depth[at - step * size]);
        if (v < size - step) behind += Math.max(0, z - depth[at + step * size]);
        const light = Math.exp(-RIM * behind / 4);
        ink[4 * at] *= light; ink[4 * at + 1] *= light; ink[4 * at + 2] *= light;
        ink[4 * at + 3] = 255 * (1 - HAZE * Math.max(0, Math.min(1, z / 2)));
      }
      return image;
    }

    drawLinks(size, fine) { // from the first cloud to the second
      const { places, rgb } = this.links, brush = this.brush;
      brush.lineWidth = fine;
      for (let i = 0; 3 * i < rgb.length; i++) {
        const [x, y] = this.place(places, 6 * i, size), [u, v] = this.place(places, 6 * i + 3, size);
        brush.strokeStyle = `rgba(${rgb.subarray(3 * i, 3 * i + 3).join()},0.75)`;
        brush.beginPath(); brush.moveTo(x, y); brush.lineTo(u + size, v); brush.stroke();
      }
    }
  }

  const boxes = [...document.querySelectorAll(".stage")];
  (function next() { // one by one, so that the page answers meanwhile
    const box = boxes.shift();
    if (!box) return;
    try { new Stage(box); } catch (error) { console.error(error); } // the still stays, and the others turn
    setTimeout(next);
  })();
})();
