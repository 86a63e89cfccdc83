"""MySQL on its own wire: PyMySQL through the proxy to a real MariaDB."""

from __future__ import annotations

import pytest

from tests import mariadb
from tests.mariadb import Through

pytestmark = mariadb.needed


def test_a_query(through: Through) -> None:
    with through.connect("catalog") as connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1, database()")
        assert cursor.fetchall() == ((1, "backstage_plugin_catalog"),)


def test_a_wrong_password_and_a_stranger_look_the_same(through: Through) -> None:
    words = []
    for user in ("backstage", "nobody"):
        with pytest.raises(mariadb.OperationalError) as caught:
            through.connect("catalog", user=user, password="wrong")
        words.append(str(caught.value).replace(user, "USER"))
    assert words[0] == words[1]
    assert "1045" in words[0]
