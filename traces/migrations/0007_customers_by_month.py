"""Calls of each customer by month, and what all calls that named a customer add up to.

The Dashboard lists the customers with the most calls of any days. Out of `traces_usage_part` that is a row for each of
them and each day; `traces_usage_customer` has one for a month, with the number of calls from the first of the month to
the end of each day: any days of a month are the difference of two of its slots. The others of that list are the
difference to the dimension `named` of `traces_usage_part`, which has no histograms.

Both are filled from what is there: one pass over the customers' rows. The index serves what one API key has called,
which the primary key of the days is of no help with.
"""

from django.db import migrations

DAYS = range(1, 32)
SUMS = (
    "n", "errors", "input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens",
    "reasoning_output_tokens", "cost_nano", "charged_nano", "duration_us_sum", "cached_calls", "saved_nano",
)  # fmt: skip

TABLE = """
CREATE TABLE traces_usage_customer (
    organization_id bigint NOT NULL,
    bucket timestamptz NOT NULL,
    customer text NOT NULL,
    environment text NOT NULL,
    calls int[] NOT NULL,
    PRIMARY KEY (organization_id, bucket, customer, environment)
) WITH (fillfactor = 70);
"""
SUM = f"""
CREATE FUNCTION traces_sum_days(a int[], b int[]) RETURNS int[] LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT ARRAY[{", ".join(f"coalesce(a[{i}], 0) + coalesce(b[{i}], 0)" for i in DAYS)}] $$;
"""


def fill(only: str = "TRUE") -> list[str]:
    """Return the statements that fill the new rows; `only` narrows them to some (a test's organization)."""
    until = ", ".join(f"coalesce(sum(n) FILTER (WHERE day <= {i}), 0)" for i in DAYS)
    months = f"""
        INSERT INTO traces_usage_customer (organization_id, bucket, customer, environment, calls)
        SELECT organization_id, date_trunc('month', bucket, 'UTC'), value, environment, ARRAY[{until}]::int[]
        FROM (
            SELECT organization_id, bucket, value, environment, n, extract(day FROM bucket AT TIME ZONE 'UTC') AS day
            FROM traces_usage_part WHERE dimension = 'customer' AND resolution = 'd' AND {only}
        ) AS days
        GROUP BY 1, 2, 3, 4
    """  # noqa: S608  (constants)
    named = f"""
        INSERT INTO traces_usage_part (organization_id, dimension, resolution, bucket, value, environment,
            {", ".join(SUMS)}, duration_histogram, ttft_histogram)
        SELECT organization_id, 'named', resolution, bucket, '', environment,
            {", ".join(f"sum({name})" for name in SUMS)}, '{{}}', '{{}}'
        FROM traces_usage_part WHERE dimension = 'customer' AND {only} GROUP BY 1, 3, 4, 6
    """  # noqa: S608  (constants)
    return [months, named]


class Migration(migrations.Migration):
    dependencies = [("traces", "0006_decisions")]

    operations = [
        migrations.RunSQL(TABLE, "DROP TABLE traces_usage_customer"),
        migrations.RunSQL(SUM, "DROP FUNCTION traces_sum_days"),
        migrations.RunSQL(
            "CREATE INDEX traces_usage_day_key ON traces_usage_day (organization_id, api_key_id, bucket)",
            "DROP INDEX traces_usage_day_key",
        ),
        # What loads while this runs waits for it: a call counted neither here nor there would be missing for ever.
        migrations.RunSQL("LOCK TABLE traces_usage_hour IN SHARE MODE", migrations.RunSQL.noop),
        *(migrations.RunSQL(statement, migrations.RunSQL.noop) for statement in fill()),
        migrations.RunSQL(migrations.RunSQL.noop, "DELETE FROM traces_usage_part WHERE dimension = 'named'"),
    ]
