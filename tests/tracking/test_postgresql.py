"""What holds of a SQLite store holds of a PostgreSQL database: the same tests, on a cluster of our own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from mlflow import MlflowClient

from bnsweep.sweep.ledger import Ledger
from bnsweep.tracking.process import quiet_environment
from bnsweep.tracking.stores import connect
from tests.tracking import test_mirror as shared
from tests.tracking.conftest import Commit
from tests.tracking.databases import Postgres

pytestmark = [
    pytest.mark.slow,
    pytest.mark.mlflow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

SHARED = [
    shared.test_a_trial_is_shown_in_full,
    shared.test_sending_over_a_half_sent_run_doubles_nothing,
    shared.test_a_bad_value_never_loses_the_others,
    shared.test_what_a_store_refuses_is_left_out_alone,
    shared.test_ten_syncs_leave_every_table_and_file_as_they_are,
    shared.test_whatever_is_deleted_by_hand_comes_back,
    shared.test_what_a_user_adds_to_a_run_stays_and_does_no_harm,
    shared.test_readings_of_a_lost_attempt_do_not_stay_beside_the_others,
]


@pytest.fixture
def database(postgres_cluster: Postgres, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database with MLflow's tables and nothing in them."""
    for name, value in quiet_environment().items():
        monkeypatch.setenv(name, value)
    uri = postgres_cluster.database()
    connect(uri)
    return uri


@pytest.mark.parametrize("test", SHARED, ids=lambda test: test.__name__.removeprefix("test_"))
def test_as_on_sqlite(
    test: Callable[[Ledger, str, Commit], None], ledger: Ledger, database: str, complete: Commit
) -> None:
    test(ledger, database, complete)
    names = {experiment.name for experiment in MlflowClient(tracking_uri=database).search_experiments()}
    assert names - {"Default"}, "the runs went to this database"
