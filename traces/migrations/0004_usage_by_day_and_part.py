"""Roll-ups for dashboards: usage by the day, and what each model, provider, key and customer has of it.

`traces_usage_day` is `traces_usage_hour` by the UTC day: long ranges read a twenty-fourth of the rows.
`traces_usage_part` has one row for each value of one dimension and each hour (`h`) and day (`d`): a total, a chart or a
breakdown reads as many rows as it has points, however many calls there were. The dimension `all` has the value ''.
Customers are no part of the other roll-ups, so that ten thousand of them do not multiply every row there.

What is there already is filled in from the roll-up by the hour; customers are counted from the spans.
"""

from itertools import count

from django.db import migrations

from traces import spans

SLOTS = range(1, spans.HISTOGRAM_BUCKETS + 1)
SUMS = (
    "n", "errors", "input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens",
    "reasoning_output_tokens", "cost_nano", "charged_nano", "duration_us_sum",
)  # fmt: skip
MEASURES = ", ".join((*SUMS, "duration_histogram", "ttft_histogram"))

TABLES = """
CREATE TABLE traces_usage_day (LIKE traces_usage_hour INCLUDING ALL);
CREATE TABLE traces_usage_part (
    organization_id bigint NOT NULL,
    dimension text NOT NULL,
    resolution text NOT NULL,
    bucket timestamptz NOT NULL,
    value text NOT NULL,
    environment text NOT NULL,
    n bigint NOT NULL DEFAULT 0,
    errors bigint NOT NULL DEFAULT 0,
    input_tokens bigint NOT NULL DEFAULT 0,
    output_tokens bigint NOT NULL DEFAULT 0,
    cache_read_input_tokens bigint NOT NULL DEFAULT 0,
    cache_creation_input_tokens bigint NOT NULL DEFAULT 0,
    reasoning_output_tokens bigint NOT NULL DEFAULT 0,
    cost_nano bigint NOT NULL DEFAULT 0,
    charged_nano bigint NOT NULL DEFAULT 0,
    duration_us_sum bigint NOT NULL DEFAULT 0,
    duration_histogram int[] NOT NULL,
    ttft_histogram int[] NOT NULL,
    PRIMARY KEY (organization_id, dimension, resolution, bucket, value, environment)
);
-- The same rows are written again and again: leave room for their new versions beside them.
ALTER TABLE traces_usage_hour SET (fillfactor = 70);
ALTER TABLE traces_usage_day SET (fillfactor = 70);
ALTER TABLE traces_usage_part SET (fillfactor = 70);
"""

# An expression that the planner puts in the place of the call: adding two histograms is most of what an upsert costs.
PLAIN_SUM = f"""
CREATE OR REPLACE FUNCTION traces_sum(a int[], b int[]) RETURNS int[] LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT ARRAY[{", ".join(f"coalesce(a[{i}], 0) + coalesce(b[{i}], 0)" for i in SLOTS)}] $$;
"""
FIRST_SUM = """
CREATE OR REPLACE FUNCTION traces_sum(a int[], b int[]) RETURNS int[] LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT array_agg(coalesce(x, 0) + coalesce(y, 0) ORDER BY i) FROM unnest(a, b) WITH ORDINALITY AS pair(x, y, i) $$;
"""


def _added(histogram: str) -> str:
    return f"ARRAY[{', '.join(f'sum({histogram}[{i}])' for i in SLOTS)}]::int[]"


_ADDED = ", ".join((*(f"sum({name})" for name in SUMS), _added("duration_histogram"), _added("ttft_histogram")))


def _thresholds() -> list[int]:
    """Return the first microsecond of each histogram bucket but the first, exactly as Python sorts them in."""
    found = []
    for bucket in range(1, spans.HISTOGRAM_BUCKETS):
        about = int(1_000 * 2 ** (bucket / 2))
        found.append(next(us for us in count(about - 2) if spans.histogram_bucket(us) >= bucket))
    return found


def _counted(column: str) -> str:
    slot = f"width_bucket({column}, ARRAY{_thresholds()}::bigint[])"
    return f"ARRAY[{', '.join(f'count(*) FILTER (WHERE {slot} = {i - 1})' for i in SLOTS)}]::int[]"


COUNTED = f"""
    count(*), count(*) FILTER (WHERE status <> 'ok'), coalesce(sum(input_tokens), 0), coalesce(sum(output_tokens), 0),
    coalesce(sum(cache_read_input_tokens), 0), coalesce(sum(cache_creation_input_tokens), 0),
    coalesce(sum(reasoning_output_tokens), 0), coalesce(sum(cost_nano), 0), sum(charged_nano), sum(duration_us),
    {_counted("duration_us")}, {_counted("ttft_us")}
"""
_RESOLUTIONS = (("h", "hour"), ("d", "day"))
_DIMENSIONS = (("all", "''::text"), ("model", "model"), ("provider", "provider"), ("key", "api_key_id::text"))
_INTO_PART = f"""
    INSERT INTO traces_usage_part (organization_id, dimension, resolution, bucket, value, environment, {MEASURES})
"""


def fill(only: str = "TRUE") -> list[str]:
    """Return the statements that fill the new tables; `only` narrows them to some rows (a test's organization)."""
    days = f"""
        INSERT INTO traces_usage_day
            (organization_id, bucket, environment, provider, model, api_key_id, status, paid_by, {MEASURES})
        SELECT organization_id, date_trunc('day', bucket, 'UTC'), environment, provider, model, api_key_id, status,
            paid_by, {_ADDED}
        FROM traces_usage_hour WHERE {only} GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
    """  # noqa: S608  (constants)
    parts = [
        f"""
        {_INTO_PART}
        SELECT organization_id, '{dimension}', '{resolution}', bucket, {value}, environment, {_ADDED}
        FROM traces_usage_{table} WHERE {only} GROUP BY 1, 4, 5, 6
        """  # noqa: S608  (constants)
        for resolution, table in _RESOLUTIONS
        for dimension, value in _DIMENSIONS
    ]
    customers = [
        f"""
        {_INTO_PART}
        SELECT organization_id, 'customer', 'h', date_trunc('hour', started_at, 'UTC'), customer_identifier,
            environment, {COUNTED}
        FROM traces_span WHERE customer_identifier <> '' AND {only} GROUP BY 1, 4, 5, 6
        """,  # noqa: S608  (constants)
        f"""
        {_INTO_PART}
        SELECT organization_id, 'customer', 'd', date_trunc('day', bucket, 'UTC'), value, environment, {_ADDED}
        FROM traces_usage_part WHERE dimension = 'customer' AND resolution = 'h' AND {only} GROUP BY 1, 4, 5, 6
        """,  # noqa: S608  (constants)
    ]
    return [days, *parts, *customers]


class Migration(migrations.Migration):
    dependencies = [("traces", "0003_queue")]

    operations = [
        migrations.RunSQL(TABLES, "DROP TABLE traces_usage_part; DROP TABLE traces_usage_day"),
        migrations.RunSQL(PLAIN_SUM, FIRST_SUM),
        # What loads while this runs waits for it: a call counted neither here nor there would be missing for ever.
        migrations.RunSQL("LOCK TABLE traces_usage_hour IN SHARE MODE", migrations.RunSQL.noop),
        *(migrations.RunSQL(statement, migrations.RunSQL.noop) for statement in fill()),
    ]
