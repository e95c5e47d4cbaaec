"""Laws of what is kept for a store that went away: order, completeness, one copy of everything, nothing foreign."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from madpipe.errors import DamagedFileError, MissingFileError, TrackingError, UnreachableError
from madpipe.pipeline.locking import locked
from madpipe.tracking.operations import Performer
from madpipe.tracking.runs import Run, Store
from madpipe.tracking.spool import Spool, is_spool, send, unsent_folder

DEAD = MlflowClient("http://127.0.0.1:9")


@dataclass
class Switch:
    """A place whose client is that of a dead server while `away`."""

    store: Store
    away: bool = False

    @property
    def uri(self) -> str:
        return self.store.uri

    @property
    def experiment_id(self) -> str:
        return self.store.experiment_id

    @property
    def client(self) -> MlflowClient:
        return DEAD if self.away else self.store.client


@dataclass
class World:
    store: Store
    switch: Switch
    talk: list[str]

    @property
    def spool(self) -> Spool:
        assert self.store.spool
        return self.store.spool

    def points(self, run_id: str) -> list[tuple[int, float]]:
        history = self.store.client.get_metric_history(run_id, "train/loss")
        return [(point.step, point.value) for point in history]

    def runs(self) -> list[str]:
        found = self.store.client.search_runs([self.store.experiment_id])
        return [run.info.run_id for run in found]


@pytest.fixture
def world(store: Store, tmp_path: Path) -> World:
    switch, talk = Switch(store), list[str]()
    spool = Spool(unsent_folder(tmp_path / "result"), Performer(switch), store.experiment, talk.append)
    return World(replace(store, spool=spool), switch, talk)


def log(run: Run, *steps: int) -> None:
    run.history((step, {"train/loss": float(step)}) for step in steps)


def test_while_the_store_answers_nothing_is_kept(world):
    with world.store.run("a run", "decomposition") as run:
        log(run, 1, 2)
    assert not world.spool.folder.exists()
    assert world.talk == []
    assert world.store.settle() is None
    assert world.store.real_id(run.id) == run.id


def test_an_outage_in_the_middle_is_told_once_and_healed_by_the_last_try(world):
    with world.store.run("a run", "decomposition") as run:
        log(run, 1)
        world.switch.away = True
        log(run, 2)
        log(run, 3)
        assert is_spool(world.spool.folder)
        world.switch.away = False
    assert world.points(run.id) == [(1, 1.0)]
    assert world.store.settle() is None
    assert world.points(run.id) == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert world.store.client.get_run(run.id).info.status == "FINISHED"
    assert len(world.talk) == 2
    assert "madpipe sync" in world.talk[0]
    assert "answers again" in world.talk[1]


def test_a_store_that_is_back_is_noticed_while_the_run_goes_on(world, monkeypatch):
    monkeypatch.setattr("madpipe.tracking.spool.RETRY_SECONDS", 0.0)
    with world.store.run("a run", "decomposition") as run:
        world.switch.away = True
        log(run, 1)
        world.switch.away = False
        log(run, 2)
        assert world.points(run.id) == [(1, 1.0), (2, 2.0)]
        assert not world.spool.folder.exists()


def test_runs_models_and_links_made_without_a_store_get_their_real_ids_when_sent(world, tmp_path):
    (tmp_path / "figure.txt").write_text("drawn")
    world.switch.away = True
    with world.store.run("first", "decomposition") as first:
        model = first.model("decomposition", {"seed": 0})
        first.artifact(tmp_path / "figure.txt", "figures")
    with world.store.run("second", "detector", {"decomposition_run_id": first.id}) as second:
        second.model_inputs([model])
    assert world.store.settle() == world.spool.folder
    assert world.store.real_id(first.id) is None
    (tmp_path / "figure.txt").unlink()
    world.switch.away = False
    assert world.store.settle() is None
    stored = world.store.client.get_run(world.store.real_id(second.id))
    assert stored.data.tags["madpipe.decomposition_run_id"] == world.store.real_id(first.id)
    outputs = world.store.client.get_run(world.store.real_id(first.id)).outputs.model_outputs
    assert [used.model_id for used in stored.inputs.model_inputs] == [made.model_id for made in outputs]
    listed = world.store.client.list_artifacts(world.store.real_id(first.id), "figures")
    assert [item.path for item in listed] == ["figures/figure.txt"]


def test_a_request_whose_answer_was_lost_is_not_made_twice(world):
    with world.store.run("a run", "decomposition") as run:
        log(run, 1)
        world.switch.away = True
        log(run, 2)
    for operation in [json.loads(line) for line in journal(world.spool).read_text().splitlines()]:
        Performer(world.store).perform(operation)  # as if the server had done it and died before it said so
    world.switch.away = False
    world.store.settle()
    assert world.points(run.id) == [(1, 1.0), (2, 2.0)]
    assert world.runs() == [run.id]


def test_a_run_that_was_begun_without_a_store_is_resumed_after_it_was_sent(world):
    world.switch.away = True
    with pytest.raises(KeyboardInterrupt), world.store.run("a run", "decomposition") as first:
        raise KeyboardInterrupt
    assert world.store.has_run(first.id)
    world.switch.away = False
    world.store.settle()
    assert world.store.has_run(first.id)
    with world.store.run("a run", "decomposition", resume=first.id) as run:
        log(run, 1)
    assert len(world.runs()) == 1
    assert world.points(world.runs()[0]) == [(1, 1.0)]


def test_what_the_store_refuses_is_an_error_at_once_and_not_kept(world):
    with world.store.run("a run", "detector") as run:
        run.params({"seed": 0})
        with pytest.raises(TrackingError) as refused:
            run.params({"seed": 1})
    assert not isinstance(refused.value, UnreachableError)
    assert not world.spool.folder.exists()


def journal(spool: Spool) -> Path:
    return spool.folder / "journal.jsonl"


@pytest.fixture
def kept(world) -> World:
    world.switch.away = True
    with world.store.run("a run", "decomposition") as run:
        log(run, 1)
    world.switch.away = False
    return world


def test_a_line_that_was_cut_off_by_a_crash_is_left_out(kept):
    with journal(kept.spool).open("a") as file:
        file.write('{"do": "met')
    kept.spool.keep({"do": "tags", "run": "unsent-x", "values": {}})
    lines = journal(kept.spool).read_text().splitlines()
    assert [json.loads(line)["do"] for line in lines] == ["start", "metrics", "status", "tags"]


@pytest.mark.parametrize("line", ["no json\n", '["do"]\n', '{"run": "x"}\n'])
def test_a_damaged_line_is_refused_and_all_is_kept(kept, line: str):
    with journal(kept.spool).open("a") as file:
        file.write(line)
    with pytest.raises(DamagedFileError, match="holds a line that is no"):
        send(kept.spool.folder, Performer(kept.switch))
    assert kept.runs() == []


@pytest.mark.parametrize("path", ["/etc/hostname", "files/../../secret", "journal.jsonl", "files/0/absent"])
def test_a_file_that_is_not_of_the_folder_is_never_sent(kept, path: str, tmp_path: Path):
    (tmp_path / "secret").write_text("s3cret")
    run = json.loads(journal(kept.spool).read_text().splitlines()[0])["key"]
    operation = {"do": "artifact", "run": f"unsent-{run}", "path": path, "folder": None}
    with journal(kept.spool).open("a") as file:
        file.write(json.dumps(operation) + "\n")
    with pytest.raises(DamagedFileError, match="which is not among its files"):
        send(kept.spool.folder, Performer(kept.switch))


def test_what_belongs_to_another_store_is_not_mixed_in(kept):
    with pytest.raises(TrackingError, match="Send it first"):
        replace(kept.spool, experiment="another")


def test_two_processes_do_not_send_at_once(kept):
    with locked(kept.spool.folder / "lock", "x"), pytest.raises(MissingFileError, match="another process is sending"):
        send(kept.spool.folder, Performer(kept.switch))


def test_a_run_goes_on_while_another_process_sends(world, monkeypatch):
    monkeypatch.setattr("madpipe.tracking.spool.RETRY_SECONDS", 0.0)
    with world.store.run("a run", "decomposition") as run:
        world.switch.away = True
        log(run, 1)
        world.switch.away = False
        with locked(world.spool.folder / "lock", "x"):
            log(run, 2)
            assert world.store.settle() == world.spool.folder
        log(run, 3)
    assert world.points(run.id) == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_what_is_kept_while_the_rest_is_being_sent_is_sent_too(kept, monkeypatch):
    late: list[Callable[[], object]] = [lambda: kept.spool.keep(operation("late"))]
    start = json.loads(journal(kept.spool).read_text().splitlines()[0])["key"]

    def operation(name: str) -> dict[str, object]:
        return {"do": "tags", "run": f"unsent-{start}", "values": {name: "yes"}}

    perform = Performer.perform

    def with_one_more(self: Performer, *words: object) -> str | None:
        while late:
            late.pop()()
        return perform(self, *words)

    monkeypatch.setattr(Performer, "perform", with_one_more)
    assert send(kept.spool.folder, Performer(kept.switch)) == 4
    assert kept.store.client.get_run(kept.runs()[0]).data.tags["late"] == "yes"
    assert not kept.spool.folder.exists()


def test_no_secret_of_the_address_is_kept(store: Store, tmp_path: Path):
    secret = replace(store, uri="http://ada:s3cret@127.0.0.1:9", client=DEAD)
    spool = Spool(tmp_path / "it.unsent", Performer(secret), "digits", lambda line: None)
    with replace(secret, spool=spool).run("a run", "detector", {"note": secret.uri}):
        pass
    assert spool.waiting
    assert not [path for path in spool.folder.rglob("*") if path.is_file() and b"s3cret" in path.read_bytes()]
