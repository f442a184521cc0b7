"""The paper's claims: catalogue, load-time checks, tests, verdicts."""

from bnsweep.analysis.claims.catalogue import CATALOGUE as CATALOGUE
from bnsweep.analysis.claims.catalogue import ClaimDefinition as ClaimDefinition
from bnsweep.analysis.claims.checking import check as check
from bnsweep.analysis.claims.frozen import freeze as freeze
from bnsweep.analysis.claims.verdicts import Verdict as Verdict
from bnsweep.analysis.claims.verdicts import judge as judge

__all__ = ["CATALOGUE", "ClaimDefinition", "Verdict", "check", "freeze", "judge"]
