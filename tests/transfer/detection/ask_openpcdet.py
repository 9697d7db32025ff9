"""Asks OpenPCDet what it makes of the made frames, and keeps its numbers in ``openpcdet.npz``:

    PYTHONPATH=. python tests/transfer/detection/ask_openpcdet.py PATH_OF_A_CHECKOUT

Its extensions for CUDA are not needed: what is asked for runs on CPUs, and rotated overlap is shapely's.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from tests.transfer.detection import made

affinity, shapely = import_module("shapely.affinity"), import_module("shapely")


class Keys(dict):
    """A mapping whose keys are attributes too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error


def nms(boxes: torch.Tensor, scores: torch.Tensor, thresh: float, **_: Any) -> tuple[torch.Tensor, None]:
    """Its ``nms_gpu`` by shapely."""
    shapes = []
    for x, y, _z, length, width, _h, yaw in boxes[:, :7].double().tolist():
        shape = shapely.box(-length / 2, -width / 2, length / 2, width / 2)
        shape = affinity.rotate(shape, yaw, (0, 0), use_radians=True)
        shapes.append(affinity.translate(shape, x, y))
    kept: list[int] = []
    for number in scores.sort(descending=True).indices.tolist():
        shape = shapes[number]
        overlaps = (shape.intersection(shapes[k]).area / shape.union(shapes[k]).area for k in kept)
        if all(overlap <= thresh for overlap in overlaps):
            kept.append(number)
    return torch.tensor(kept, dtype=torch.int64), None


def stub(root: Path) -> None:
    """Packages without what their ``__init__`` imports, and modules that are compiled for CUDA replaced."""
    packages = ["pcdet", "pcdet.models", "pcdet.models.dense_heads", "pcdet.models.dense_heads.target_assigner"]
    packages += ["pcdet.models.model_utils", "pcdet.models.backbones_2d", "pcdet.models.backbones_3d", "pcdet.utils"]
    for name in packages:
        sys.modules[name] = ModuleType(name)
        sys.modules[name].__path__ = [str(root / name.replace(".", "/"))]
    for name in ("pcdet.ops", "pcdet.ops.iou3d_nms", "pcdet.ops.roiaware_pool3d", "numba", "SharedArray"):
        sys.modules[name] = ModuleType(name)
    sys.modules["numba"].jit = lambda **_: lambda function: function  # type: ignore[attr-defined]
    overlap = ModuleType("pcdet.ops.iou3d_nms.iou3d_nms_utils")
    overlap.nms_gpu = nms  # type: ignore[attr-defined]
    sys.modules["pcdet.ops.iou3d_nms"].iou3d_nms_utils = overlap  # type: ignore[attr-defined]
    inside = ModuleType("pcdet.ops.roiaware_pool3d.roiaware_pool3d_utils")
    sys.modules["pcdet.ops.roiaware_pool3d"].roiaware_pool3d_utils = inside  # type: ignore[attr-defined]
    for module in (overlap, inside):
        sys.modules[module.__name__] = module
    torch.Tensor.cuda = lambda self, *_: self  # type: ignore[method-assign]


def theirs(module: str, name: str) -> Any:
    """Something of OpenPCDet's."""
    return getattr(import_module(module), name)


def centre_head(name: str) -> Any:
    """Its head, set as ours is in the tests."""
    kind = theirs("pcdet.models.dense_heads.center_head", "CenterHead")
    parts = {"center": 2, "center_z": 1, "dim": 3, "rot": 2} | ({"vel": 2} if name == "two" else {})
    weights = [1.0] * 6 + ([0.2] * 2 + [0.7] * 2 if name == "two" else [1.0] * 2)
    config = Keys(
        CLASS_NAMES_EACH_HEAD=[list(group) for group in made.GROUPS[name]],
        SHARED_CONV_CHANNEL=6,
        USE_BIAS_BEFORE_NORM=True,
        NUM_HM_CONV=2,
        SEPARATE_HEAD_CFG=Keys(
            HEAD_ORDER=list(parts), HEAD_DICT={key: Keys(out_channels=n, num_conv=2) for key, n in parts.items()}
        ),
        TARGET_ASSIGNER_CONFIG=Keys(
            FEATURE_MAP_STRIDE=made.STRIDE, NUM_MAX_OBJS=500, GAUSSIAN_OVERLAP=0.1, MIN_RADIUS=2
        ),
        LOSS_CONFIG=Keys(
            LOSS_WEIGHTS={"cls_weight": 1.0, "loc_weight": 0.25 if name == "two" else 2.0, "code_weights": weights}
        ),
        POST_PROCESSING=Keys(
            SCORE_THRESH=0.1,
            POST_CENTER_LIMIT_RANGE=[*made.RANGE],
            MAX_OBJ_PER_SAMPLE=60,
            NMS_CONFIG=Keys(NMS_TYPE="nms_gpu", NMS_THRESH=0.2, NMS_PRE_MAXSIZE=1000, NMS_POST_MAXSIZE=20),
        ),
    )
    head = kind(
        model_cfg=config,
        input_channels=5,
        num_class=3,
        class_names=list(made.CLASSES),
        grid_size=np.array([256, 512, 40]),
        point_cloud_range=np.array(made.RANGE, np.float32),
        voxel_size=[*made.VOXEL],
        predict_boxes_when_training=False,
    )
    return head.eval()


def anchor_head() -> Any:
    """Its head with KITTI's anchors."""
    kind = theirs("pcdet.models.dense_heads.anchor_head_single", "AnchorHeadSingle")
    rows = (
        ("Car", [3.9, 1.6, 1.56], -1.78, 0.6, 0.45),
        ("Pedestrian", [0.8, 0.6, 1.73], -0.6, 0.5, 0.35),
        ("Cyclist", [1.76, 0.6, 1.73], -0.6, 0.5, 0.35),
    )
    config = Keys(
        USE_DIRECTION_CLASSIFIER=True,
        DIR_OFFSET=0.78539,
        DIR_LIMIT_OFFSET=0.0,
        NUM_DIR_BINS=2,
        ANCHOR_GENERATOR_CONFIG=[
            Keys(
                class_name=name,
                anchor_sizes=[size],
                anchor_rotations=[0, 1.57],
                anchor_bottom_heights=[bottom],
                align_center=False,
                feature_map_stride=made.STRIDE,
                matched_threshold=matched,
                unmatched_threshold=unmatched,
            )
            for name, size, bottom, matched, unmatched in rows
        ],
        TARGET_ASSIGNER_CONFIG=Keys(
            NAME="AxisAlignedTargetAssigner",
            POS_FRACTION=-1.0,
            SAMPLE_SIZE=512,
            NORM_BY_NUM_EXAMPLES=False,
            MATCH_HEIGHT=False,
            BOX_CODER="ResidualCoder",
        ),
        LOSS_CONFIG=Keys(
            LOSS_WEIGHTS={"cls_weight": 1.0, "loc_weight": 2.0, "dir_weight": 0.2, "code_weights": [1.0] * 7}
        ),
    )
    head = kind(
        model_cfg=config,
        input_channels=5,
        num_class=3,
        class_names=list(made.CLASSES),
        grid_size=np.array([256, 512, 40]),
        point_cloud_range=np.array(made.RANGE, np.float32),
        predict_boxes_when_training=False,
    )
    return head.eval()


def batch_of(first: int) -> torch.Tensor:
    """The boxes of a batch as it takes them: padded, the class last and counted from 1."""
    boxes = torch.zeros(made.BATCH, made.MOST, 10)
    for number in range(made.BATCH):
        values, classes = made.made_boxes(first + number)
        boxes[number, : len(values), :9] = torch.from_numpy(values)
        boxes[number, : len(values), 9] = torch.from_numpy(classes) + 1
    return boxes


def ask_centre_head(name: str, kept: dict[str, list[Any]]) -> None:
    """Targets, losses, gradients and boxes of all frames."""
    head = centre_head(name)
    order = head.separate_head_cfg.HEAD_ORDER
    for first in range(0, made.FRAMES, made.BATCH):
        boxes = batch_of(first)
        if name == "one":
            boxes = torch.cat([boxes[..., :7], boxes[..., 9:]], 2)
        targets = head.assign_targets(boxes.clone(), feature_map_size=made.MAP)
        maps, leaves = [], []
        for group, names in enumerate(made.GROUPS[name]):
            widths = {"center": 2, "center_z": 1, "dim": 3, "rot": 2, "vel": 2}
            drawn = {key: made.made_map(widths[key], 7 * first + group * 1000 + n) for n, key in enumerate(order)}
            drawn["hm"] = made.made_map(len(names), 7 * first + group * 1000 + 9, -4.0, 1.0)
            maps.append({key: torch.from_numpy(value).requires_grad_() for key, value in drawn.items()})
            leaves += [maps[-1][key] for key in (*order, "hm")]
            heat, codes, index, mask = (targets[key][group] for key in ("heatmaps", "target_boxes", "inds", "masks"))
            kept[f"{name}.heat"].append(made.seen_as(heat.numpy()))
            cloud, row = mask.nonzero().T
            cells = torch.stack([cloud, index[cloud, row] // made.MAP[1], index[cloud, row] % made.MAP[1]], 1)
            kept[f"{name}.cells"].append(made.seen_as(cells.numpy()))
            kept[f"{name}.codes"].append(made.seen_as(codes[cloud, row].numpy()))
        head.forward_ret_dict = {"pred_dicts": [dict(group) for group in maps], "target_dicts": targets}
        loss, parts = head.get_loss()
        sums = [sum(value for key, value in parts.items() if key.startswith(word)) for word in ("hm", "loc")]
        kept[f"{name}.losses"].append([loss.item(), *sums])
        gradients = torch.autograd.grad(loss, leaves)
        kept[f"{name}.gradients"].append(made.seen_as(torch.cat([g.flatten() for g in gradients]).numpy()))
        with torch.no_grad():
            for cloud in head.generate_predicted_boxes(made.BATCH, maps):
                keep(name, kept, cloud["pred_boxes"], cloud["pred_scores"], cloud["pred_labels"])


def keep(
    name: str, kept: dict[str, list[Any]], boxes: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor
) -> None:
    """The boxes found in a frame."""
    kept[f"{name}.number"].append(len(boxes))
    kept[f"{name}.found"].append(made.seen_as(boxes[:, :6].numpy()))
    kept[f"{name}.turns"].append(made.seen_as(np.stack([boxes[:, 6].cos().numpy(), boxes[:, 6].sin().numpy()])))
    kept[f"{name}.scores"].append(made.seen_as(scores.numpy()))
    kept[f"{name}.labels"].append(made.seen_as(labels.numpy()))


def ask_anchor_head(kept: dict[str, list[Any]]) -> None:
    """The same of the head with anchors."""
    class_agnostic_nms = theirs("pcdet.models.model_utils.model_nms_utils", "class_agnostic_nms")
    head = anchor_head()
    suppression = Keys(NMS_TYPE="nms_gpu", NMS_THRESH=0.01, NMS_PRE_MAXSIZE=300, NMS_POST_MAXSIZE=100)
    for first in range(0, made.FRAMES, made.BATCH):
        boxes = batch_of(first)
        targets = head.assign_targets(torch.cat([boxes[..., :7], boxes[..., 9:]], 2))
        for key in ("box_cls_labels", "box_reg_targets"):
            kept[f"anchor.{key}"].append(made.seen_as(targets[key].numpy()))
        widths = {"cls_preds": 18, "box_preds": 42, "dir_cls_preds": 12}
        maps = {
            key: torch.from_numpy(
                made.made_map(width, 7 * first + n, -4.0 if n == 0 else 0.0, (1.0, 0.2, 1.0)[n])
            ).requires_grad_()
            for n, (key, width) in enumerate(widths.items())
        }
        head.forward_ret_dict = {key: value.permute(0, 2, 3, 1).contiguous() for key, value in maps.items()} | targets
        loss, parts = head.get_loss()
        kept["anchor.losses"].append([loss.item(), *(parts[f"rpn_loss_{key}"] for key in ("cls", "loc", "dir"))])
        gradients = torch.autograd.grad(loss, list(maps.values()))
        kept["anchor.gradients"].append(made.seen_as(torch.cat([g.flatten() for g in gradients]).numpy()))
        with torch.no_grad():
            given = [maps[key].permute(0, 2, 3, 1).contiguous() for key in widths]
            logits, decoded = head.generate_predicted_boxes(made.BATCH, *given)
            for cloud in range(made.BATCH):
                scores, labels = logits[cloud].sigmoid().max(1)
                chosen, best = class_agnostic_nms(scores, decoded[cloud], suppression, 0.1)
                keep("anchor", kept, decoded[cloud][chosen], best, labels[chosen])


def ask_networks(kept: dict[str, list[Any]]) -> None:
    """Names and shapes of the weights of all networks, and what they answer with made ones."""
    kind = theirs("pcdet.models.backbones_2d.base_bev_backbone", "BaseBEVBackbone")
    flat = kind(
        Keys(
            LAYER_NUMS=[2, 1],
            LAYER_STRIDES=[1, 2],
            NUM_FILTERS=[6, 8],
            UPSAMPLE_STRIDES=[1, 2],
            NUM_UPSAMPLE_FILTERS=[4, 7],
        ),
        5,
    )
    x = torch.from_numpy(made.made_map(5, 3))
    networks = {"bev": flat, "one": centre_head("one"), "two": centre_head("two"), "anchor": anchor_head()}
    for name, network in networks.items():
        network.eval()
        fill(name, network, kept)
        with torch.no_grad():
            given = network({"spatial_features_2d": x, "spatial_features": x, "batch_size": made.BATCH})
            if name == "bev":
                answer = given["spatial_features_2d"]
            elif name == "anchor":
                answer = torch.cat(
                    [network.forward_ret_dict[key].flatten() for key in ("cls_preds", "box_preds", "dir_cls_preds")]
                )
            else:
                maps = network.forward_ret_dict["pred_dicts"]
                answer = torch.cat([maps[g][key].flatten() for g in range(len(maps)) for key in sorted(maps[g])])
        kept[f"{name}.answer"].append(made.seen_as(answer.numpy()))


def ask_backbones(kept: dict[str, list[Any]]) -> None:
    """The sparse backbones, by spconv on a CPU."""
    from spconv.core import ConvAlgo

    coordinates, features = made.made_voxels()
    for name, kind in (("plain", "VoxelBackBone8x"), ("residual", "VoxelResBackBone8x")):
        build = theirs("pcdet.models.backbones_3d.spconv_backbone", kind)
        network = build(Keys(), 4, np.array([64, 96, 40])).eval()
        fill(name, network, kept)
        for module in network.modules():
            if hasattr(module, "algo"):
                module.algo = ConvAlgo.Native
                add_bias_after(module)
        with torch.no_grad():
            given = {"voxel_features": torch.from_numpy(features), "voxel_coords": torch.from_numpy(coordinates)}
            answer = network(given | {"batch_size": made.BATCH})["encoded_spconv_tensor"].dense()
        kept[f"{name}.answer"].append(made.seen_as(answer.numpy()))


def add_bias_after(module: Any) -> None:
    """What spconv cannot do itself on a CPU."""
    bias, module.bias = module.bias, None
    if bias is not None:
        module.register_forward_hook(lambda _, __, out: out.replace_feature(out.features + bias))


def fill(name: str, network: torch.nn.Module, kept: dict[str, list[Any]]) -> None:
    """Give the network the made weights."""
    shapes = [(key, tuple(value.shape)) for key, value in network.state_dict().items()]
    network.load_state_dict({key: torch.from_numpy(value) for key, value in made.made_weights(shapes).items()})
    kept[f"{name}.weights"] = [f"{key} {' '.join(map(str, shape))}" for key, shape in sorted(shapes)]


def main() -> None:
    """Ask, and keep the answers beside this file."""
    root = Path(sys.argv[1]).resolve()
    stub(root)
    kept: dict[str, list[Any]] = defaultdict(list)
    ask_networks(kept)
    ask_backbones(kept)
    for name in made.GROUPS:
        ask_centre_head(name, kept)
    ask_anchor_head(kept)
    arrays: dict[str, Any] = {name: np.array(values) for name, values in kept.items()}
    np.savez_compressed(Path(__file__).with_name("openpcdet.npz"), **arrays)


if __name__ == "__main__":
    main()
