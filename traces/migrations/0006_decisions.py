"""What the gateway decided on a call: answered from the cache, by a fallback, after retries, under which limit.

Only new columns whose defaults PostgreSQL keeps beside the table: nothing is rewritten, however many calls there are,
and processes of the version before go on reading and writing. Calls of before have none of these decisions, so the
roll-ups need no filling. The index of the calls that have one is made for the days to come and for the default
partition (which holds next to nothing); days that are there already are read without it until they go.
"""

from django.db import migrations

COLUMNS = """
ALTER TABLE traces_span
    ADD COLUMN cached bool NOT NULL DEFAULT false,
    ADD COLUMN saved_nano bigint,
    ADD COLUMN fallback smallint NOT NULL DEFAULT 0,
    ADD COLUMN retries smallint NOT NULL DEFAULT 0,
    ADD COLUMN limit_name text,
    ADD COLUMN cache_key text,
    ADD COLUMN cache_log_id uuid,
    ADD COLUMN load_balance_group text;
"""
NO_COLUMNS = """
ALTER TABLE traces_span
    DROP COLUMN cached, DROP COLUMN saved_nano, DROP COLUMN fallback, DROP COLUMN retries, DROP COLUMN limit_name,
    DROP COLUMN cache_key, DROP COLUMN cache_log_id, DROP COLUMN load_balance_group;
"""

INDEX = """
CREATE INDEX traces_span_decided ON ONLY traces_span (organization_id, started_at DESC, id DESC)
    WHERE cached OR fallback > 0 OR retries > 0 OR limit_name IS NOT NULL;
CREATE INDEX traces_span_default_decided ON traces_span_default (organization_id, started_at DESC, id DESC)
    WHERE cached OR fallback > 0 OR retries > 0 OR limit_name IS NOT NULL;
ALTER INDEX traces_span_decided ATTACH PARTITION traces_span_default_decided;
"""

_ROLLUPS = ("traces_usage_hour", "traces_usage_day", "traces_usage_part")


class Migration(migrations.Migration):
    dependencies = [("traces", "0005_batches_in_plural")]

    operations = [
        migrations.RunSQL(COLUMNS, NO_COLUMNS),
        migrations.RunSQL(INDEX, "DROP INDEX traces_span_decided"),
        *(
            migrations.RunSQL(
                f"ALTER TABLE {table} ADD COLUMN cached_calls bigint NOT NULL DEFAULT 0,"
                " ADD COLUMN saved_nano bigint NOT NULL DEFAULT 0",
                f"ALTER TABLE {table} DROP COLUMN cached_calls, DROP COLUMN saved_nano",
            )
            for table in _ROLLUPS
        ),
    ]
