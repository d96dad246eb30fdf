"""The training loop, on `accelerate`: one CPU, one GPU, DDP or FSDP2 by accelerate's own configuration."""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from diffusers.optimization import get_scheduler
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, register_fsdp_forward_method
from torch.utils.data import DataLoader

from ..data import Batch, BrokenExamples, Source, collate
from ..data.stream import NumberSampler
from ..data.workers import DataWorkerError, batches
from ..io.images import save_image
from ..io.messages import LONGEST, NO_MEMORY, StoppedError, lacks_memory
from ..reporting.picture_grid import Row, picture_grid
from .average import WeightAverage
from .checkpoint import (
    check_architecture,
    find_checkpoint,
    gather,
    list_checkpoints,
    load_checkpoint,
    read_state,
    save_checkpoint,
)
from .config import Config, RunConfig
from .fp8 import check_fp8, use_fp8
from .optimizer import build_optimizer
from .processes import WAIT, ask_first, lost_connection, silent_processes
from .progress import Progress
from .run import Metrics, RunLock, check_trackers, prepare_run
from .same_run import check_same_run, fixed_part
from .subject import OwnModel, Subject
from .validation_loss import ValidationLoss

SHEET_COLUMNS = 8  # pictures side by side on a sheet of sample images

SAME_INTERRUPT = 1.0  # seconds


class TrainingError(StoppedError):
    """A run that had to stop, by no mistake of the user's; the message says where it can go on."""


class NonFiniteLossError(TrainingError):
    """The loss became infinite or not a number."""


class OutOfMemoryError(TrainingError):
    """A step, or reading its data, needs more memory than there is."""


class LostProcessError(TrainingError):
    """Another process of the run died or stands still."""


def train(config: Config, resume: str | None = None, allow_changes: Sequence[str] = ()) -> Path:
    """Trains, and returns the run's last checkpoint.

    Args:
        config: the run.
        resume: "latest" or a checkpoint's folder; the continuation is the one that an uninterrupted run would have had.
        allow_changes: keys of the config that may differ from the run so far, see `same_run`.

    Raises:
        ValueError: the config cannot be run, or is not that of the run so far; raised before any work.
        NonFiniteLossError: the loss became infinite or not a number.
        OutOfMemoryError: a step, or reading its data, needs more memory than there is.
        DataWorkerError: a process that reads data died; there is a checkpoint of the last step.
        LostProcessError: another process died, or did not answer for `processes.WAIT`.
    """
    return make_trainer(config, resume, allow_changes).run()


def make_trainer(config: Config, resume: str | None = None, allow_changes: Sequence[str] = ()) -> "Trainer":
    """A run of our own model; see `train`."""
    return Trainer(config, lambda accelerator, source: OwnModel(config, accelerator, source), resume, allow_changes)


class Trainer:
    """A run in progress.

    Args:
        config: the run.
        make: makes what is trained, for an accelerator and the source of the data.
        resume: see `train`.
        allow_changes: see `train`.
    """

    def __init__(
        self,
        config: RunConfig,
        make: Callable[[Accelerator, Source], Subject],
        resume: str | None = None,
        allow_changes: Sequence[str] = (),
    ) -> None:
        self.config = config
        options = config.training
        check_trackers(options.trackers)
        self.accelerator = Accelerator(
            cpu=not torch.accelerator.is_available(),  # else accelerate does not join processes that torchrun started
            mixed_precision="bf16" if options.precision == "bfloat16" else "no",
            gradient_accumulation_steps=options.gradient_accumulation,
            log_with=options.trackers or None,
            project_dir=str(options.output),
            kwargs_handlers=[InitProcessGroupKwargs(timeout=WAIT)],
        )
        if options.fp8:
            check_fp8(self.accelerator.device)
        self.micro_batch = self._micro_batch()
        self.lock = RunLock(options.output) if self.accelerator.is_main_process else None
        try:
            self._set_up(make, resume, allow_changes)
        except BaseException:
            self._unlock()
            raise

    def _unlock(self) -> None:
        if self.lock is not None:
            self.lock.release()

    def _set_up(
        self, make: Callable[[Accelerator, Source], Subject], resume: str | None, allow_changes: Sequence[str]
    ) -> None:
        """Makes or restores all that steps need, then the run's folder."""
        config, options = self.config, self.config.training
        checkpoint = None if resume is None else ask_first(lambda: find_checkpoint(options.output, resume))
        if checkpoint is not None:
            check_same_run(read_state(checkpoint).run or fixed_part(config), config, allow_changes, checkpoint)
        source = config.data.source.open(config.data.image_size, options.seed)
        self.broken = BrokenExamples(source.length, config.data.max_broken, source.left_out)
        torch.manual_seed(options.seed)
        self.subject = make(self.accelerator, source)
        if checkpoint is not None:
            check_architecture(checkpoint, self.subject.architecture())
        else:
            self.subject.initialize()
        # Known again after a resume, unless the run began from another pipeline.
        known = checkpoint is None or not options.initialize_from
        self.fusion_start = fusion_parameters(self.subject.module) if known else {}
        self.stream = self.subject.stream(source)
        self.validation_loss: ValidationLoss | None = None
        if config.validation.loss_every:
            self.validation_loss = self.subject.validation_loss(self.accelerator, self.micro_batch)
        self._prepare_model()
        self.step = 0 if checkpoint is None else load_checkpoint(checkpoint, self.model, self.optimizer, self.ema)
        if checkpoint is not None:
            self.schedule.last_epoch = self.step - 1
            self.schedule.step()  # sets the learning rates
        self.stop = self.signaled = False
        self.failure: str | None = None
        self.seconds_waited, self.asked = 0.0, time.perf_counter()
        self.deadline = time.perf_counter() + 60 * (options.max_minutes or float("inf"))
        # Written last: whatever is wrong with the config has been said by now.
        if self.lock is not None:
            prepare_run(config, checkpoint, self.lock)
            self.metrics = Metrics(options.output, self.step)
        self.accelerator.wait_for_everyone()

    def _micro_batch(self) -> int:
        options = self.config.training
        parts = self.accelerator.num_processes * options.gradient_accumulation
        if options.batch_size % parts:
            raise ValueError(
                f"training.batch_size {options.batch_size} cannot be shared by {self.accelerator.num_processes} "
                f"processes x {options.gradient_accumulation} accumulation steps."
            )
        return options.batch_size // parts

    def _prepare_model(self) -> None:
        """Wraps the model for the machine, then makes what holds on to its parameters."""
        options, optimizer = self.config.training, self.config.optimizer
        transformer = self.subject.transformer
        if options.attention_backend:
            transformer.set_attention_backend(options.attention_backend)
        if options.gradient_checkpointing:
            transformer.enable_gradient_checkpointing()
        if options.fp8:
            use_fp8(transformer.blocks)
        if options.compile:
            transformer.compile_repeated_blocks()
        self.optimizer = build_optimizer(optimizer, self.subject.module, options.precision)
        if self.accelerator.is_fsdp2:
            # Left to itself, accelerate casts weights, gradients and all inputs to bfloat16, where neighboring
            # timesteps are one. Autocast decides by operation, as without sharding.
            self.accelerator.state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy()
        # Together: sharding gives the model new parameters, which the optimizer must hold in place of the old.
        self.model, self.prepared_optimizer = self.accelerator.prepare(self.subject.module, self.optimizer)
        wrapped: nn.Module = self.model
        for module in wrapped.modules():
            # Sampling enters sharded modules by these as well, and their weights must be gathered then too.
            for method in ("text_context", "key_value", "state"):
                if isinstance(module, FSDPModule) and hasattr(module, method):
                    register_fsdp_forward_method(module, method)
        self.schedule = get_scheduler(
            optimizer.schedule,
            self.optimizer,
            num_warmup_steps=optimizer.warmup_steps,
            num_training_steps=options.steps,
        )
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.ema = WeightAverage(trained, options.ema_decay, options.ema_device)

    def run(self) -> Path:
        """Runs to the last step, or until a signal asks to stop, and leaves a checkpoint either way."""
        self.accelerator.init_trackers(
            "semantic-routing",
            config={"config": self.config.to_yaml()},
            init_kwargs={"wandb": {"dir": str(self.config.training.output)}},  # left alone, it writes where one stands
        )
        try:
            with self._stop_on_signal():
                checkpoint = self._run_steps()
        except (MemoryError, RuntimeError) as error:
            if lacks_memory(error):
                raise OutOfMemoryError(self._explain_memory(error)) from error
            if self.accelerator.num_processes == 1 or not lost_connection(error):
                raise
            raise LostProcessError(self._name_silent()) from error
        finally:
            self._unlock()
        self.accelerator.end_training()
        self.broken.report()
        if self.failure is not None and not self.signaled:
            raise DataWorkerError(f"{self.failure} The checkpoint {checkpoint} holds all {self.step} steps.")
        return checkpoint

    def _explain_memory(self, error: MemoryError | RuntimeError) -> str:
        reasons = [line for line in str(error).splitlines() if any(words in line.lower() for words in NO_MEMORY)]
        reason = f" ({reasons[-1].strip()[:LONGEST]})" if reasons else ""
        return (
            f"There is not enough memory for step {self.step + 1}{reason}: raise training.gradient_accumulation, set "
            "training.gradient_checkpointing, or lower training.batch_size or data.num_workers; --resume latest goes "
            "on from the last checkpoint."
        )

    def _name_silent(self) -> str:
        own, total = self.accelerator.process_index, self.accelerator.num_processes
        silent = silent_processes(dist.distributed_c10d._get_default_store(), own, total)
        who = f"process {', '.join(map(str, silent))} of {total} does not answer" if silent else "none is missing now"
        return (
            f"Process {own} lost the connection to the others in step {self.step + 1} ({who}); --resume latest goes on "
            "from the last checkpoint."
        )

    def _run_steps(self) -> Path:
        options = self.config.training
        checkpoint = None
        seconds, main = self.deadline - time.perf_counter(), self.accelerator.is_main_process
        with Progress(self.step, options.steps, main, seconds) as progress:
            stream = self._batches()
            while self.step < options.steps:
                started = time.perf_counter()
                parts = self._read(stream)
                if self._asked_to_stop():
                    break
                loss, grad_norm = self._optimizer_step(parts)
                self.step += 1
                rate = options.batch_size / (time.perf_counter() - started)
                progress.update(self.step, loss, rate)
                measured = self._measure_validation_loss()
                if measured or self.step % options.log_every == 0 or self.step == options.steps:
                    measured["data_wait"] = self._share_waited()
                    self._log(loss=loss, grad_norm=grad_norm, images_per_second=rate, **measured)
                every = self.config.validation.every
                if every and self.step % every == 0:
                    self._sample_images()
                if self.step % options.checkpoint_every == 0:
                    checkpoint = self._save()
        if checkpoint is None or self.step % options.checkpoint_every:
            checkpoint = self._save()
        return checkpoint

    def _share_waited(self) -> float:
        """The share of the time since the last question in which training waited for data."""
        now = time.perf_counter()
        share = self.seconds_waited / (now - self.asked)
        self.seconds_waited, self.asked = 0.0, now
        return share

    def _batches(self) -> Iterator[Batch]:
        first = self.step * self.config.training.gradient_accumulation
        accelerator = self.accelerator
        loader: DataLoader[Batch] = DataLoader(
            self.stream,
            batch_size=self.micro_batch,
            sampler=NumberSampler(first, self.micro_batch, accelerator.process_index, accelerator.num_processes),
            num_workers=self.config.data.num_workers,
            collate_fn=collate,
            pin_memory=accelerator.device.type == "cuda",
            worker_init_fn=_leave_signals_to_trainer,
        )
        return batches(loader)

    def _read(self, stream: Iterator[Batch]) -> list[Batch]:
        """The micro-batches of a step, before anything of it is done; where a worker died, the run shall stop."""
        if self.stop:
            return []
        asked = time.perf_counter()
        try:
            return [next(stream) for _ in range(self.config.training.gradient_accumulation)]
        except DataWorkerError as error:
            self.stop, self.failure = True, str(error)
            return []
        finally:
            self.seconds_waited += time.perf_counter() - asked

    def _optimizer_step(self, parts: Sequence[Batch]) -> tuple[float, float]:
        """One step of the optimizer over all accumulated micro-batches; returns loss and gradient norm."""
        losses = []
        grad_norm: Any = 0.0
        for batch in parts:
            self.broken.count(batch.skipped)
            with self.accelerator.accumulate(self.model):
                loss = self._loss(batch)
                losses.append(self._checked(loss))
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients:
                    self._freeze_fusion()
                    limit = self.config.optimizer.max_grad_norm
                    grad_norm = self.accelerator.clip_grad_norm_(self.model.parameters(), limit)
                self.prepared_optimizer.step()
                self.prepared_optimizer.zero_grad()
        self.schedule.step()
        self.ema.step([parameter for parameter in self.model.parameters() if parameter.requires_grad])
        return sum(losses) / len(losses), float(grad_norm)

    def _freeze_fusion(self) -> None:
        """Drops the fusion's gradients once its share of the steps is over: AdamW passes over what has none."""
        options = self.config.training
        if options.freeze_fusion_after is not None and self.step >= options.freeze_fusion_after * options.steps:
            for name, parameter in self.subject.module.named_parameters():
                if name.startswith("fusion."):
                    parameter.grad = None

    def _loss(self, batch: Batch) -> Tensor:
        with self.accelerator.autocast():
            return self.subject.loss(self.model, batch).mean()

    def _checked(self, loss: Tensor) -> float:
        """The loss over all processes, which must be finite before anything is learned from it."""
        mean = float(self.accelerator.gather(loss.detach()).mean())
        if mean != mean or mean in (float("inf"), float("-inf")):
            good = list_checkpoints(self.config.training.output)
            last = f"the last good checkpoint is {good[-1]}" if good else "there is no checkpoint yet"
            raise NonFiniteLossError(f"The loss is {mean} at step {self.step + 1}; {last}.")
        return mean

    def _log(self, **values: float) -> None:
        values["learning_rate"] = self.schedule.get_last_lr()[0]
        if self.fusion_start:
            values["fusion_travel"] = self._fusion_travel()
        if self.accelerator.is_main_process:
            self.metrics.write(step=self.step, **values)
        self.accelerator.log(values, step=self.step)

    def _fusion_travel(self) -> float:
        """How far the fusion's parameters are from where they began, as a root mean square."""
        now = fusion_parameters(self.subject.module)
        moved = [(now[name] - start).flatten() for name, start in self.fusion_start.items()]
        return float(torch.cat(moved).square().mean().sqrt())

    @contextmanager
    def _averaged_weights(self) -> Iterator[None]:
        """The model has the averaged weights for a while."""
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.ema.store(parameters)
        self.ema.copy_to(parameters)
        try:
            yield
        finally:
            self.ema.restore(parameters)

    def _measure_validation_loss(self) -> dict[str, float]:
        """The averaged weights' loss of held-out examples, at the steps where it is wanted."""
        if self.validation_loss is None or self.step % self.config.validation.loss_every:
            return {}
        with self._averaged_weights():
            return self.validation_loss(self.model)

    def _sample_images(self) -> None:
        """Sample images of the validation prompts with the averaged weights, as one grid."""
        options = self.config.validation
        with self._averaged_weights(), self.accelerator.autocast():
            images = self.subject.images(options)
        if self.accelerator.is_main_process:
            starts = range(0, len(images), SHEET_COLUMNS)
            places = [slice(start, start + SHEET_COLUMNS) for start in starts]
            sheet = picture_grid([Row(images[place], captions=options.prompts[place]) for place in places])
            save_image(sheet, self.config.training.output / "samples" / f"step-{self.step:08d}.png")

    def _save(self) -> Path:
        if self.accelerator.is_main_process:
            self.metrics.sync()
        checkpoint = save_checkpoint(
            run=self.config.training.output,
            step=self.step,
            model=self.model,
            optimizer=self.optimizer,
            ema=self.ema,
            architecture=self.subject.architecture(),
            run_config=fixed_part(self.config),
            keep=self.config.training.keep_checkpoints,
            form=self.config.training.checkpoint_form,
        )
        self.accelerator.wait_for_everyone()
        return checkpoint

    @contextmanager
    def _stop_on_signal(self) -> Iterator[None]:
        """SIGTERM and Ctrl-C end the run after the current step; only a second Ctrl-C ends it at once."""
        interrupted: list[float] = []

        def ask_to_stop(number: int, frame: FrameType | None) -> None:
            self.stop = self.signaled = True
            if number == signal.SIGINT:
                # One Ctrl-C comes twice under torchrun: from the terminal, and from torchrun.
                if interrupted and time.monotonic() - interrupted[0] > SAME_INTERRUPT:
                    raise KeyboardInterrupt
                interrupted.append(time.monotonic())

        asked = (signal.SIGINT, signal.SIGTERM)
        previous = {number: signal.getsignal(number) for number in asked}
        for number in asked:
            signal.signal(number, ask_to_stop)
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _asked_to_stop(self) -> bool:
        """Whether any process got a signal or ran out of time: all must leave at the same step."""
        stop = self.stop or time.perf_counter() > self.deadline
        if self.accelerator.num_processes == 1:
            return stop
        if stop:
            self.accelerator.set_trigger()
        return bool(self.accelerator.check_trigger())


def fusion_parameters(transformer: nn.Module) -> dict[str, Tensor]:
    """Copies of the fusion's trained parameters, on the CPU; none where there is no fusion."""
    return {
        name: gather(parameter.detach()).clone()
        for name, parameter in transformer.named_parameters()
        if name.startswith("fusion.") and parameter.requires_grad
    }


def _leave_signals_to_trainer(worker: int) -> None:
    """For processes that read data: Ctrl-C reaches them too, and they must go on; they end by SIGTERM as others do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
