"""From a sweep file to its trials, and the ledger that says which are done.

Nothing here imports torch or ray, and importing it costs little: a laptop checks a file, plans it
and reads its ledger.
"""

from bnsweep.sweep.loading import load_spec, load_text, to_yaml
from bnsweep.sweep.packs import Pack, make_packs
from bnsweep.sweep.plan import Plan, make_plan
from bnsweep.sweep.schema import schema
from bnsweep.sweep.settings import Range, Setting
from bnsweep.sweep.spec import Claim, Metric, Resources, SweepSpec

__all__ = [
    "Claim",
    "Metric",
    "Pack",
    "Plan",
    "Range",
    "Resources",
    "Setting",
    "SweepSpec",
    "load_spec",
    "load_text",
    "make_packs",
    "make_plan",
    "schema",
    "to_yaml",
]
