"""The loop: it learns, it stops with a sentence, and it resumes bit for bit."""

import os
import signal

import pytest
import torch
from torch.nn.functional import cross_entropy

from lawful.lab.checkpoint import CHECKPOINT, resume, save
from lawful.lab.datasets import batches, load
from lawful.lab.models import MLP, seeded
from lawful.lab.training import NonFiniteLoss, cosine, train


def parts(momentum=0.9):
    data = load("digits")
    with seeded(0):
        model = MLP(64, 10, width=16, depth=2)
    return data, model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum)


def go(data, model, optimizer, steps, start=0, **options):
    deal = batches(data.x_train, data.y_train, 32, steps=steps, start=start)
    train(
        model, optimizer, cross_entropy, deal, steps=steps, start=start, progress=False, **options
    )


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_it_learns_digits():
    data, model, optimizer = parts()
    go(data, model, optimizer, 300)
    guess = model(data.x_test).argmax(dim=1)
    assert float((guess == data.y_test).float().mean()) > 0.75


def test_a_resumed_run_is_the_uninterrupted_run_bit_for_bit(tmp_path):
    data, whole, optimizer = parts()
    go(data, whole, optimizer, 120)
    _, first, optimizer = parts()
    go(data, first, optimizer, 70)
    save(tmp_path / CHECKPOINT, first, optimizer, 70)
    _, second, optimizer = parts()
    start = resume(tmp_path / CHECKPOINT, second, optimizer)
    assert start == 70
    go(data, second, optimizer, 120, start=start)
    assert same(whole, second)


def test_ctrl_c_ends_between_two_steps_with_a_checkpoint(tmp_path):
    data, model, optimizer = parts()
    calls = []

    def interrupting(output, y):
        calls.append(1)
        if len(calls) == 20:  # in the middle of a step
            os.kill(os.getpid(), signal.SIGINT)
        return cross_entropy(output, y)

    before = signal.getsignal(signal.SIGINT)
    deal = batches(data.x_train, data.y_train, 32, steps=100)
    with pytest.raises(KeyboardInterrupt):
        train(
            model,
            optimizer,
            interrupting,
            deal,
            steps=100,
            checkpoint=tmp_path / CHECKPOINT,
            progress=False,
        )
    assert signal.getsignal(signal.SIGINT) is before
    _, resumed, optimizer = parts()
    start = resume(tmp_path / CHECKPOINT, resumed, optimizer)
    assert start == 20
    assert same(model, resumed)
    go(data, resumed, optimizer, 100, start=start)
    _, whole, optimizer = parts()
    go(data, whole, optimizer, 100)
    assert same(whole, resumed)


def test_a_loss_that_is_no_number_stops_with_step_and_rate():
    data, model, optimizer = parts()
    with torch.no_grad():
        model.fc1.weight[0, 0] = float("nan")
    with pytest.raises(NonFiniteLoss, match=r"nan at step 1 \(learning rate 0.1\)"):
        go(data, model, optimizer, 10)


def test_the_learning_rate_follows_its_schedule():
    rate = cosine(0.2, 100)
    assert [rate(0), rate(50), rate(100)] == pytest.approx([0.2, 0.1, 0.0])
    data, model, optimizer = parts()
    go(data, model, optimizer, 11, rate=cosine(0.2, 20))
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1)


def test_the_bar_is_on_stderr_only(capsys):
    data, model, optimizer = parts()
    deal = batches(data.x_train, data.y_train, 32, steps=5)
    train(model, optimizer, cross_entropy, deal, steps=5, title="digits[a]")
    out, err = capsys.readouterr()
    assert out == ""
    assert "digits[a]" in err
    assert "5/5" in err
