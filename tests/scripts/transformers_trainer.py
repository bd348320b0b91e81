"""A small GPT-2 under the Trainer of transformers, with gradient accumulation."""

import tempfile

import torch
from transformers import GPT2Config, GPT2LMHeadModel, PrinterCallback, Trainer, TrainingArguments


class Text(torch.utils.data.Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, i):
        ids = torch.randint(17, (12,), generator=torch.Generator().manual_seed(i))
        return {"input_ids": ids, "labels": ids}


torch.manual_seed(0)
config = GPT2Config(vocab_size=17, n_positions=12, n_embd=8, n_layer=1, n_head=2)
model = GPT2LMHeadModel(config)
with tempfile.TemporaryDirectory() as folder:
    arguments = TrainingArguments(
        folder, max_steps=6, per_device_train_batch_size=4, gradient_accumulation_steps=2,
        learning_rate=1e-2, use_cpu=True, report_to=[], logging_steps=1, save_strategy="no",
        disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=Text())
    trainer.remove_callback(PrinterCallback)  # it prints how long training took
    trainer.train()
for entry in trainer.state.log_history:
    print(entry["step"], entry.get("loss"), entry.get("grad_norm"))
print(sum(p.double().sum() for p in model.parameters()).item().hex())
