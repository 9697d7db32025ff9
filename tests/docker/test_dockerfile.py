"""The reader of Dockerfiles: what it reads means what Docker says, and the rest is an error with its line."""

from __future__ import annotations

from pathlib import Path

import pytest
from dockerfile import DockerfileError, instructions, read
from ignore import Ignore
from plan import Copy, MakeFolder, PlannedStage, Run, plan
from variables import expand, words

REAL = Path(__file__).parents[2] / "docker" / "Dockerfile"


def planned(tmp_path: Path, text: str, target: str | None = None, **build_args: str) -> list[PlannedStage]:
    file = tmp_path / "Dockerfile"
    file.write_text(text)
    return plan(read(file, build_args), target, build_args)


def runs(stage: PlannedStage) -> list[Run]:
    return [step.action for step in stage.steps if isinstance(step.action, Run)]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("$X/y", "one/y"),
        ("${X}y", "oney"),
        ("${NONE:-else}", "else"),
        ("${EMPTY:-else}", "else"),
        ("${EMPTY-else}", ""),
        ("${X:-else}", "one"),
        ("${X:+set}", "set"),
        ("${EMPTY:+set}", ""),
        ("${NONE:-${X}s}", "ones"),
        ("$NONE.", "."),
        (r"\$X", "$X"),
        ("'$X'", "$X"),
        ('"$X b"', "one b"),
        (r'"a\nb"', r"a\nb"),
        ("5$", "5$"),
    ],
)
def test_variables_stand_for_what_docker_says(text: str, value: str) -> None:
    assert expand(text, {"X": "one", "EMPTY": ""}) == value


def test_words_split_at_blanks_that_are_written_unquoted() -> None:
    assert words(r"""a="b c" d\ e $TWO "" 'f "g' """, {"TWO": "x y"}) == ["a=b c", "d e", "x y", "", 'f "g']


@pytest.mark.parametrize("text", ["${X", "${X%%.*}", "${}", "'open"])
def test_what_cannot_be_expanded_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|not closed"):
        expand(text, {"X": "one"})


def test_comments_and_blank_lines_stand_between_continued_lines() -> None:
    text = "# first\nFROM debian:bookworm\n\nRUN one \\\n  # why\n\n && two\\\nthree\nUSER a\n"
    found = instructions(Path("D"), text)
    assert [(one.line, one.name, one.text) for one in found] == [
        (2, "FROM", "debian:bookworm"),
        (4, "RUN", "one  && twothree"),
        (9, "USER", "a"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FROM a\nADD x y", "D:2: ADD: not an instruction known here.*COPY"),
        ("FROM a\n\nCOPPY x y", "D:3: COPPY: .*did you mean COPY"),
        ("FROM a\nCOPY --form=b x y", "D:2: COPY: --form: not a flag.*did you mean from"),
        ("FROM a\nRUN cat <<EOF\nEOF", "D:2: RUN: here-documents"),
        ("FROM a\nRUN x \\\n", "D:2: the file ends within"),
        ("FROM a\nWORKDIR", "D:2: WORKDIR: nothing follows"),
        ("# escape=`\nFROM a", "D:1: escape=`"),
        ("RUN x\nFROM a", "D:1: RUN: stands before the first FROM"),
        ("FROM a b c", "D:1: FROM: a b c: expected FROM IMAGE"),
        ("FROM a AS x\nFROM b AS x", "D:2: FROM: x: there is a stage of this name"),
        ("ARG X", "D: has no FROM"),
        ("FROM a\nENV X", "D:2: ENV: X: expected NAME=VALUE"),
        ("FROM a\nENV X=1 two", "D:2: ENV: two: expected NAME=VALUE"),
        ("FROM a\nENV X=${Y", "D:2: ENV: .*expected"),
        ("FROM a\nCOPY x", "D:2: COPY: x: expected at least"),
        ("FROM a\nCOPY x y z", "D:2: COPY: z: .*end with /"),
        ("FROM a\nCOPY --chmod=u+x x y", "D:2: COPY: --chmod=u"),
        ("FROM a AS one\nCOPY --from=two x y", "D:2: COPY: --from=two: no stage before"),
        ("FROM a\nSHELL bash", "D:2: SHELL: bash: expected a list"),
        ("FROM a\nCMD [1]", "D:2: CMD: .*list of strings"),
        ("FROM a\nRUN --mount=type=secret,id=x y", "D:2: RUN: --mount=type=secret"),
        ("FROM a\nSTOPSIGNAL SIGSTAHP", "D:2: STOPSIGNAL: SIGSTAHP: expected the name or number"),
        ("FROM a\nRUN --network=bridge y", "D:2: RUN: --network=bridge"),
    ],
)
def test_what_is_not_known_is_an_error_with_its_line(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("D").write_text(text)
    with pytest.raises(DockerfileError, match="^" + message):
        plan(read(Path("D")), None, {})


def test_arguments_and_environment(tmp_path: Path) -> None:
    text = (
        "ARG TAG=bookworm\nARG BASE=debian:${TAG}-slim\nFROM $BASE\nARG TAG\nARG WHO=me TWO=2\n"
        "ENV WHO=env DIR=/x PATH=/v:$PATH\n"
        "ENV NEXT=${WHO}2 DIR=/y OLD=$DIR\nWORKDIR $DIR\nWORKDIR sub/..\nWORKDIR deep\nRUN it\n"
    )
    (stage,) = planned(tmp_path, text, TWO="zwei")
    assert stage.base == "debian:bookworm-slim" and stage.external
    (run,) = runs(stage)
    env = dict(run.env)
    assert env["PATH"].startswith("/v:/usr/local/sbin:") and run.workdir == "/y/deep"
    assert {name: env[name] for name in ("TAG", "TWO", "WHO", "NEXT", "DIR", "OLD")} == {
        "TAG": "bookworm",
        "TWO": "zwei",
        "WHO": "env",  # ENV goes before ARG
        "NEXT": "env2",
        "DIR": "/y",
        "OLD": "/x",  # what held before the instruction
    }
    assert "TWO" not in stage.settings.env  # arguments are for building


def test_a_build_argument_that_nothing_declares_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DockerfileError, match=r"--build-arg TORCHINDEX: .*did you mean TORCH_INDEX"):
        planned(tmp_path, "FROM a\nARG TORCH_INDEX=x\n", TORCHINDEX="y")


def test_a_target_takes_the_stages_it_needs_and_no_others(tmp_path: Path) -> None:
    text = (
        'FROM debian:bookworm AS base\nENV A=1\nUSER me:us\nENTRYPOINT ["run", "it"]\nCMD ["now"]\nSTOPSIGNAL SIGINT\n'
        "FROM base AS tools\nRUN make\nFROM base AS other\nRUN other\nFROM base AS last\n"
        "COPY --from=tools --chown=1:2 --chmod=0644 /out/a /out/b lib/\nCMD echo $A\n"
    )
    stages = planned(tmp_path, text, "last")
    assert [stage.name for stage in stages] == ["base", "tools", "last"]
    settings = stages[-1].settings
    assert (settings.user, settings.entrypoint, settings.stop_signal) == ("me:us", ("run", "it"), "SIGINT")
    assert settings.command == ("/bin/sh", "-c", "echo $A")
    assert stages[-1].steps[0].action == Copy(("/out/a", "/out/b"), "/lib/", "tools", "1:2", 0o644)
    assert [run.user for run in runs(stages[1])] == ["me:us"]
    assert [stage.name for stage in planned(tmp_path, text)] == ["base", "tools", "last"]  # the last is the default
    with pytest.raises(DockerfileError, match=r"no stage lst; .*did you mean last"):
        planned(tmp_path, text, "lst")


def test_forms_shells_and_mounts(tmp_path: Path) -> None:
    text = (
        'FROM a\nRUN ["x", "y z"]\nRUN [ -d /x ] && y\nSHELL ["/bin/bash", "-c"]\nWORKDIR /w\n'
        "RUN --network=none --mount=type=cache,target=/c,sharing=locked --mount=target=in,source=lock pip\n"
    )
    (stage,) = planned(tmp_path, text)
    one, two, three = runs(stage)
    assert one.command == ("x", "y z") and two.command == ("/bin/sh", "-c", "[ -d /x ] && y")
    assert three.command == ("/bin/bash", "-c", "pip") and not three.network and one.network
    assert three.caches == ("/c",) and three.bound == (("/w/in", "lock"),)
    assert stage.steps[2].action == MakeFolder("/w")


def test_entrypoint_forgets_the_command_of_its_base(tmp_path: Path) -> None:
    (stage,) = planned(tmp_path, 'FROM a\nCMD ["old"]\nENTRYPOINT ["new"]\n')
    assert stage.settings.command == ()


@pytest.mark.parametrize(
    ("rules", "kept"),
    [
        ("", ["a.py", "docs/a.md", "docs/deep/b.md", "src/a.pyc", "src/x/b.pyc"]),
        ("# no\ndocs", ["a.py", "src/a.pyc", "src/x/b.pyc"]),
        ("**/*.pyc\n/docs/", ["a.py"]),
        ("*.py", ["docs/a.md", "docs/deep/b.md", "src/a.pyc", "src/x/b.pyc"]),
        ("*\n!docs\ndocs/deep", ["docs/a.md"]),
        ("*/*.md\nsrc/?.pyc", ["a.py", "docs/deep/b.md", "src/x/b.pyc"]),
        ("*\n!src/x/b.pyc", ["src/x/b.pyc"]),
        ("src/[ab].pyc\ndocs/**", ["a.py", "src/x/b.pyc"]),
    ],
)
def test_dockerignore_leaves_out_what_docker_leaves_out(rules: str, kept: list[str], tmp_path: Path) -> None:
    for name in ("a.py", "docs/a.md", "docs/deep/b.md", "src/a.pyc", "src/x/b.pyc"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = Ignore(rules.splitlines()).files(tmp_path)
    assert [name for name, path in found.items() if path.is_file()] == kept
    folders = {parent.as_posix() for name in kept for parent in Path(name).parents} - {"."}
    assert {name for name, path in found.items() if path.is_dir()} == folders


@pytest.mark.parametrize("target", ["cuda", "cpu", "test"])
def test_the_recipe_is_understood_whole(target: str) -> None:
    stages = plan(read(REAL), target, {})
    assert stages[0].base.startswith("debian:bookworm") and stages[-1].name == target
    assert stages[-1].settings.entrypoint and stages[-1].settings.user not in ("root", "0")
    files = Ignore.of(REAL.parents[1], REAL).files(REAL.parents[1])
    for stage in stages:
        for step in stage.steps:
            if isinstance(step.action, Copy) and step.action.source is None:
                assert all(path == "." or path in files for path in step.action.paths), step.instruction.line
