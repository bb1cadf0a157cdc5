"""The table of `CACHES`: counters of sign-in attempts and used one-time codes, shared by all web processes.

Unlogged: losing it in a crash only forgets attempts, and a commit does not wait for the disk.
"""

from django.db import migrations

TABLE = """
CREATE UNLOGGED TABLE shared_cache (
    cache_key varchar(255) PRIMARY KEY,
    value text NOT NULL,
    expires timestamptz NOT NULL
);
CREATE INDEX shared_cache_expires ON shared_cache (expires);
"""


class Migration(migrations.Migration):

    dependencies = [
        ('accounts', '0002_people_and_keys'),
    ]

    operations = [
        migrations.RunSQL(TABLE, "DROP TABLE shared_cache"),
    ]
