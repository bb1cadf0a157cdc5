"""Spans, bodies and roll-ups. Partitions by day are attached by `traces.store.postgres`; the default ones are the net.

`id` starts with the call's start in milliseconds (UUID version 7), so that a look-up by id alone can bound `started_at`.
Bodies are zstd-compressed already: EXTERNAL storage keeps PostgreSQL from trying again.
"""

from django.db import migrations

SPANS = """
CREATE TABLE traces_span (
    organization_id bigint NOT NULL,
    id uuid NOT NULL,
    started_at timestamptz NOT NULL,
    environment text NOT NULL,
    api_key_id bigint NOT NULL,
    trace_id bytea NOT NULL,
    parent_span_id bytea,
    name text NOT NULL,
    log_type text NOT NULL,
    duration_us bigint NOT NULL,
    ttft_us bigint,
    status text NOT NULL,
    http_status smallint NOT NULL,
    stream bool NOT NULL,
    provider text,
    request_model text NOT NULL,
    response_model text,
    credential text,
    paid_by text NOT NULL,
    rates_id bigint,
    input_tokens int,
    output_tokens int,
    cache_read_input_tokens int,
    cache_creation_input_tokens int,
    reasoning_output_tokens int,
    usage_source text NOT NULL,
    cost_nano bigint,
    charged_nano bigint NOT NULL DEFAULT 0,
    absorbed_nano bigint NOT NULL DEFAULT 0,
    finish_reason text,
    error_code text,
    error_message text,
    customer_identifier text,
    customer_name text,
    customer_email text,
    custom_identifier text,
    thread_identifier text,
    metadata jsonb NOT NULL DEFAULT '{}',
    warnings jsonb NOT NULL DEFAULT '[]',
    attempts jsonb NOT NULL DEFAULT '[]',
    input_preview text,
    output_preview text,
    has_body bool NOT NULL DEFAULT false,
    ingested_at timestamptz NOT NULL DEFAULT now()
) PARTITION BY RANGE (started_at);
CREATE UNIQUE INDEX traces_span_once ON traces_span (organization_id, id, started_at);
CREATE INDEX traces_span_list ON traces_span (organization_id, started_at DESC, id DESC);
CREATE INDEX traces_span_trace ON traces_span (organization_id, trace_id);
CREATE INDEX traces_span_customer ON traces_span (organization_id, customer_identifier, started_at DESC)
    WHERE customer_identifier IS NOT NULL;
CREATE INDEX traces_span_thread ON traces_span (organization_id, thread_identifier, started_at DESC)
    WHERE thread_identifier IS NOT NULL;
CREATE INDEX traces_span_failed ON traces_span (organization_id, started_at DESC, id DESC) WHERE status <> 'ok';
CREATE INDEX traces_span_metadata ON traces_span USING gin (metadata jsonb_path_ops);
CREATE TABLE traces_span_default PARTITION OF traces_span DEFAULT;

CREATE TABLE traces_body (
    organization_id bigint NOT NULL,
    id uuid NOT NULL,
    started_at timestamptz NOT NULL,
    request bytea,
    response bytea,
    request_truncated bool NOT NULL DEFAULT false,
    response_truncated bool NOT NULL DEFAULT false
) PARTITION BY RANGE (started_at);
ALTER TABLE traces_body ALTER COLUMN request SET STORAGE EXTERNAL, ALTER COLUMN response SET STORAGE EXTERNAL;
CREATE UNIQUE INDEX traces_body_once ON traces_body (organization_id, id, started_at);
CREATE TABLE traces_body_default PARTITION OF traces_body DEFAULT;
"""

# `provider` is '' for calls that reached none: a primary key has no NULL.
ROLLUPS = """
CREATE TABLE traces_usage_hour (
    organization_id bigint NOT NULL,
    bucket timestamptz NOT NULL,
    environment text NOT NULL,
    provider text NOT NULL,
    model text NOT NULL,
    api_key_id bigint NOT NULL,
    status text NOT NULL,
    paid_by text NOT NULL,
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
    PRIMARY KEY (organization_id, bucket, environment, provider, model, api_key_id, status, paid_by)
);
CREATE FUNCTION traces_sum(a int[], b int[]) RETURNS int[] LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT array_agg(coalesce(x, 0) + coalesce(y, 0) ORDER BY i) FROM unnest(a, b) WITH ORDINALITY AS pair(x, y, i) $$;
ALTER TABLE traces_ingestbatch ALTER COLUMN blob SET STORAGE EXTERNAL;
"""


class Migration(migrations.Migration):
    dependencies = [("traces", "0001_initial")]

    operations = [
        migrations.RunSQL(
            SPANS, "DROP TABLE traces_body; DROP TABLE traces_span"
        ),
        migrations.RunSQL(ROLLUPS, "DROP TABLE traces_usage_hour; DROP FUNCTION traces_sum"),
    ]
