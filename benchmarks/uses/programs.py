"""The uses: each a title and small programs that check their numbers.

The first program is the use as its row names it, the others reach the same numbers by another road. A program returns nothing or a
remark; it raises what the library raises, `Wrong` where the numbers are not right and `Missing` where there is nothing to call.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import derivatives as d
import lives


@dataclasses.dataclass(frozen=True)
class Use:
    title: str
    programs: list[tuple[str, Callable[[Any], str | None]]]
    of: str = "ways"  # or "modules": what of the library it is tried on
    safety: bool = False  # the worst result counts, not the best


USES = {
    "gradient": Use("gradient of the whole parameter tree, `torch.func.grad`", [("yes", d.gradient)]),
    "per_sample": Use("per-sample gradients, `vmap(grad)`", [("yes", d.per_sample), ("autograd", d.per_sample_batched_vjp)]),
    "population": Use(
        "`vmap` over neurons' parameters: a population",
        [("yes", d.population), ("partly", d.population_of_what_there_is), ("broadcasting", d.population_by_broadcasting)],
    ),
    "ensemble": Use("`vmap` over weights: an ensemble, and its gradients", [("yes", d.ensemble)]),
    "jvp": Use("forward mode, `jvp`", [("yes", d.forward_mode), ("autograd", d.forward_by_reverse_twice)]),
    "hvp": Use(
        "Hessian-vector product, `jvp(grad)`",
        [("yes", d.hvp), ("`grad(grad)`", d.hvp_reverse_over_reverse), ("autograd", d.hvp_by_autograd)],
    ),
    "maml": Use("MAML, vmapped over tasks", [("yes", d.maml), ("autograd (task by task)", d.maml_by_autograd)]),
    "rtrl": Use(
        "exact online gradient (RTRL) of any step",
        [("yes", d.rtrl), ("by hand", d.rtrl_by_func), ("by hand (autograd)", d.rtrl_by_autograd)],
    ),
    "pure": Use(
        "a module as a pure step, under `grad` and `vmap`",
        [("yes", lives.pure), ("autograd only", lives.pure_under_autograd)],
        of="modules",
    ),
    "resume": Use(
        "explicit state saved, resumed in another process bit for bit", [("yes", lives.resume), ("as a list", lives.resume_from_leaves)]
    ),
    "hidden_state": Use(
        "a module's hidden state, likewise", [("yes", lives.hidden_state), ("by hand", lives.hidden_state_by_hand)], of="modules"
    ),
    "export": Use(
        "`torch.export` of a step: parameters and state in, state out",
        [("yes", lives.exported), ("parameters fixed", lives.exported_module)],
    ),
    "deepcopy": Use("`copy.deepcopy` of a network between two steps of training", [("yes", lives.copied)], of="modules"),
    "vmap_state": Use("a module's state is never lost silently under `vmap`", [("yes", lives.state_after_vmap)], of="modules", safety=True),
    "fused": Use(
        "one's own pointwise neuron as one CPU kernel over time",
        [("yes", lives.fused), ("`torch.compile`", lives.fused_by_compile)],
        of="own_neuron",
    ),
}  # fmt: skip
