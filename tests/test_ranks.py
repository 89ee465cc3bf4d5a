"""The end of several ranks, in one line. These ranks are invented; test_distributed.py starts real ones."""

import logging
import signal
import sys
from collections.abc import Iterator
from unittest.mock import Mock

import pytest
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from harness.core.errors import UserError
from harness.training.distributed import joined
from harness.training.torchrun import main


@pytest.fixture
def torchrun(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mock]:
    """Replaces torchrun for the launcher."""
    monkeypatch.setattr("torch.distributed.run.main", made := Mock())
    monkeypatch.setattr(sys, "argv", ["torchrun", "-m", "harness"])
    before = signal.getsignal(signal.SIGHUP)
    yield made
    signal.signal(signal.SIGHUP, before)
    logging.disable(logging.NOTSET)


def test_the_launcher_ends_with_the_code_of_the_first_rank_that_failed(
    torchrun: Mock, capsys: pytest.CaptureFixture[str]
) -> None:
    """This rank has printed the reason, unless it was killed."""
    killed = "error: a rank was killed by SIGKILL. The same command continues.\n"
    for ended, code, said in (
        (None, 0, ""),
        (2, 2, ""),
        (130, 130, ""),
        (-signal.SIGKILL, 2, killed),
    ):
        failure = ended and ChildFailedError("harness", {0: ProcessFailure(0, 1, ended, "")})
        torchrun.side_effect = failure
        assert (main(), capsys.readouterr().err) == (code, said)
    torchrun.side_effect = SignalException("", signal.SIGTERM)
    assert main() == 130


def test_the_launcher_leaves_a_hangup_to_nohup(torchrun: Mock) -> None:
    main()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    main()
    own, ignored = (call.args[0] for call in torchrun.call_args_list)
    assert own == ["--signals-to-handle", "SIGTERM,SIGUSR1,SIGINT,SIGQUIT,SIGHUP", "-m", "harness"]
    assert ignored == ["--signals-to-handle", "SIGTERM,SIGUSR1,SIGINT,SIGQUIT", "-m", "harness"]


def test_only_the_effect_on_the_others_is_reported_as_a_lost_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name, value in (("init_process_group", None), ("new_group", None), ("get_rank", 1), ("get_world_size", 2)):
        monkeypatch.setattr(dist, name, Mock(return_value=value))
    monkeypatch.setattr(dist, "destroy_process_group", left := Mock())
    lost = "another rank of this training was lost. The last checkpoint stands; the same command continues."
    for error, told in (
        (RuntimeError("[gloo/transport] Connection closed by peer"), UserError(lost)),
        (dist.DistBackendError("NCCL error"), UserError(lost)),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), None),
    ):
        with pytest.raises((UserError, RuntimeError)) as caught, joined() as ranks:
            raise error
        assert (type(caught.value), str(caught.value)) == (type(told or error), str(told or error))
        assert (ranks.rank, ranks.number, ranks.first) == (1, 2, False)
    assert left.call_count == 3
