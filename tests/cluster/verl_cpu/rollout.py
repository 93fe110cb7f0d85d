"""A rollout server beside each training process, which samples with Transformers, what waits as one batch."""

import asyncio

import ray
import torch
from verl.workers.rollout.base import BaseRollout
from verl.workers.rollout.replica import RolloutReplica, TokenOutput

WAIT_SECONDS = 0.2
BATCH = 128


@ray.remote(num_cpus=0, max_concurrency=1000)
class Server:
    def __init__(self, path, limit):
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(1)
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        self.limit, self.step, self.waiting, self.task = limit, 0, [], None

    async def load(self, weights, step):
        self.model.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, strict=False)
        self.model.tie_weights()
        self.step = step or 0

    async def generate(self, prompt_ids, sampling_params, request_id=None, **_):
        answer = asyncio.get_running_loop().create_future()
        self.waiting.append((list(prompt_ids), float(sampling_params.get("temperature", 1.0)), answer))
        if self.task is None or self.task.done():
            self.task = asyncio.create_task(self._serve())
        return await answer

    async def _serve(self):
        await asyncio.sleep(WAIT_SECONDS)
        while self.waiting:
            batch, self.waiting = self.waiting[:BATCH], self.waiting[BATCH:]
            for (_, _, answer), output in zip(batch, self._sample(batch), strict=True):
                answer.set_result(output)
            await asyncio.sleep(0)

    @torch.no_grad()
    def _sample(self, batch):
        width, temperature = max(len(ids) for ids, _, _ in batch), batch[0][1]
        pad, eos = self.model.config.pad_token_id, self.model.config.eos_token_id
        ids = torch.tensor([[pad] * (width - len(ids)) + ids for ids, _, _ in batch])
        mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids, _, _ in batch])
        made = self.model.generate(
            ids, attention_mask=mask, max_new_tokens=self.limit, do_sample=True, temperature=temperature, top_k=0,
            top_p=1.0, return_dict_in_generate=True, output_logits=True,
        )  # fmt: skip
        tokens = made.sequences[:, width:]
        logprobs = torch.stack([logits.float() / temperature for logits in made.logits], 1).log_softmax(-1)
        chosen = logprobs.gather(2, tokens.unsqueeze(2)).squeeze(2)
        ends = [(row == eos).nonzero()[:1].flatten().tolist() for row in tokens]
        sizes = [end[0] + 1 if end else self.limit for end in ends]
        return [
            TokenOutput(
                token_ids=tokens[i, :size].tolist(), log_probs=chosen[i, :size].tolist(), stop_reason="completed",
                extra_fields={"global_steps": self.step, "min_global_steps": self.step, "max_global_steps": self.step},
            )
            for i, size in enumerate(sizes)
        ]  # fmt: skip

    async def wake_up(self):
        pass

    sleep = clear_kv_cache = release_kv_cache = resume_kv_cache = resume_generation = wake_up

    async def abort_all_requests(self, **_):
        pass


class TransformersReplica(RolloutReplica):
    async def launch_servers(self):
        name = f"transformers_cpu_{self.replica_rank}"
        server = Server.options(name=name).remote(self.model_config.path, self.config.response_length)
        self.servers, self._server_handle, self._server_address = [server], server, name


class WeightsAdapter(BaseRollout):
    async def resume(self, tags):
        pass

    async def release(self):
        pass

    async def update_weights(self, weights, wire_format="named_tensors", global_steps=None, **_):
        found = {}
        if hasattr(weights, "__aiter__"):
            async for name, tensor in weights:
                found[name] = tensor.detach().cpu().clone()
        else:
            found = {name: tensor.detach().cpu().clone() for name, tensor in weights}
        server = ray.get_actor(f"transformers_cpu_{torch.distributed.get_rank()}")
        await server.load.remote(found, global_steps)
