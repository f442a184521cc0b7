"""What a sweep says: tables, intervals, learning-rate ranges, verdicts, figures and the report.

Reads the ledger and nothing else. Importing this package costs nothing: pandas and Matplotlib are
loaded by the calls that need them.
"""

from bnsweep.analysis.claims.checking import check as check
from bnsweep.analysis.report import Report as Report
from bnsweep.analysis.report import make_report as make_report
from bnsweep.analysis.summary import text_summary as text_summary
from bnsweep.analysis.tables import condition_table as condition_table
from bnsweep.analysis.tables import results_table as results_table

__all__ = ["Report", "check", "condition_table", "make_report", "results_table", "text_summary"]
