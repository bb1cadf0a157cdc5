"""The statements that move money in one round trip, and the triggers that keep what is booked.

Every function locks in one order: holds by id, then wallets by id, then it writes. An `UPDATE ... FROM (subquery)` locks
in no order at all, so locks are taken by an explicit, ordered SELECT first. A hold's id is written under the lock of its
wallet, by `billing_hold_many` and `billing_close_many` alike: that is what makes a late hold and its early settlement
meet. Wallets are locked FOR NO KEY UPDATE, so that foreign keys to them do not wait.
"""

from django.db import migrations

EXPIRE = """
-- What is left of expired grants goes to breakage, as far as it is not held; the held rest goes when it is released.
-- The wallet is locked by the caller.
CREATE FUNCTION billing_expire_grants(of_wallet bigint, moment timestamptz) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    expired record;
    wallet record;
    taken bigint;
    total bigint := 0;
BEGIN
    SELECT posted, held INTO wallet FROM billing_wallet WHERE organization_id = of_wallet;
    FOR expired IN
        SELECT id, remaining FROM billing_grant
        WHERE wallet_id = of_wallet AND remaining > 0 AND expires_at <= moment
        ORDER BY expires_at, created_at, id
    LOOP
        taken := least(expired.remaining, wallet.posted - total - wallet.held);
        CONTINUE WHEN taken <= 0;
        total := total + taken;
        UPDATE billing_grant SET remaining = remaining - taken WHERE id = expired.id;
        INSERT INTO billing_entry (id, wallet_id, kind, debit, credit, amount, balance, grant_id, reason, created_at)
        VALUES (gen_random_uuid(), of_wallet, 'expiry', 'wallet', 'breakage', taken, wallet.posted - total, expired.id,
                '', clock_timestamp());
    END LOOP;
    UPDATE billing_wallet SET posted = posted - total, next_expiry_at = (
        SELECT min(expires_at) FROM billing_grant WHERE wallet_id = of_wallet AND remaining > 0
    ) WHERE organization_id = of_wallet;
    RETURN total;
END $$;
"""

DRAW = """
-- A charge uses up the grant that expires first. The wallet is locked by the caller.
CREATE FUNCTION billing_draw_grants(of_wallet bigint, spent bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    left_over record;
    taken bigint;
BEGIN
    FOR left_over IN
        SELECT id, remaining FROM billing_grant WHERE wallet_id = of_wallet AND remaining > 0
        ORDER BY expires_at, created_at, id
    LOOP
        EXIT WHEN spent <= 0;
        taken := least(left_over.remaining, spent);
        spent := spent - taken;
        UPDATE billing_grant SET remaining = remaining - taken WHERE id = left_over.id;
    END LOOP;
    UPDATE billing_wallet SET next_expiry_at = (
        SELECT min(expires_at) FROM billing_grant WHERE wallet_id = of_wallet AND remaining > 0
    ) WHERE organization_id = of_wallet;
END $$;
"""

HOLD = """
-- Open holds for one wallet after the other (the arrays are sorted by wallet); one verdict for each:
-- 0 refused, 1 held, 2 busy (not patient, and the wallet is locked), 3 no wallet, 4 this id was resolved before.
-- `rooms` tells what was available to each. `retry`: the same rows may have been held by an attempt whose answer was
-- lost. One wallet locked by somebody else must not stall the others: patience ends after 100 ms.
CREATE FUNCTION billing_hold_many(
    ids uuid[], wallets bigint[], amounts bigint[], owners text[], deadlines timestamptz[], retry boolean,
    patient boolean, OUT verdicts smallint[], OUT rooms bigint[]
) LANGUAGE plpgsql AS $$
DECLARE
    n int := cardinality(ids);
    wallet bigint;
    room bigint;
    expiry timestamptz;
    absent smallint;
    known text;
    known_ids uuid[] := '{}';
    put_ids uuid[];
    put_wallets bigint[];
    put_amounts bigint[];
    admitted int := 0;
    took bigint := 0;
BEGIN
    -- For this transaction. Generic plans: the planner would else look at every array anew.
    PERFORM set_config('lock_timeout', '100ms', true), set_config('plan_cache_mode', 'force_generic_plan', true);
    verdicts := array_fill(0::smallint, ARRAY[n]);
    rooms := array_fill(0::bigint, ARRAY[n]);
    FOR i IN 1..n LOOP
        IF wallet IS DISTINCT FROM wallets[i] THEN
            wallet := wallets[i];
            absent := 3;
            IF patient THEN
                SELECT posted + credit_limit - held, next_expiry_at INTO room, expiry FROM billing_wallet
                WHERE organization_id = wallet FOR NO KEY UPDATE;
            ELSE
                SELECT posted + credit_limit - held, next_expiry_at INTO room, expiry FROM billing_wallet
                WHERE organization_id = wallet FOR NO KEY UPDATE SKIP LOCKED;
                IF NOT FOUND AND EXISTS (SELECT FROM billing_wallet WHERE organization_id = wallet) THEN
                    absent := 2;
                END IF;
            END IF;
            IF expiry <= clock_timestamp() THEN
                room := room - billing_expire_grants(wallet, clock_timestamp());
            END IF;
        END IF;
        rooms[i] := coalesce(room, 0);
        IF room IS NULL THEN
            verdicts[i] := absent;
            CONTINUE;
        END IF;
        IF retry THEN
            SELECT state INTO known FROM billing_hold WHERE id = ids[i];
            IF FOUND THEN
                verdicts[i] := CASE WHEN known = 'open' THEN 1 ELSE 4 END;
                known_ids := known_ids || ids[i];
                CONTINUE;
            END IF;
        END IF;
        IF amounts[i] <= room THEN
            room := room - amounts[i];
            verdicts[i] := 1;
            admitted := admitted + 1;
        END IF;
    END LOOP;
    IF admitted = 0 THEN
        RETURN;
    END IF;
    WITH put AS (
        INSERT INTO billing_hold (id, wallet_id, amount, state, owner, deadline_at, created_at)
        SELECT t.id, t.wallet, t.amount, 'open', t.owner, t.deadline, clock_timestamp()
        FROM unnest(ids, wallets, amounts, owners, deadlines, verdicts) t(id, wallet, amount, owner, deadline, verdict)
        WHERE t.verdict = 1 AND t.id <> ALL(known_ids)
        ON CONFLICT (id) DO NOTHING
        RETURNING id, wallet_id, amount
    )
    SELECT array_agg(id), array_agg(wallet_id), array_agg(amount) INTO put_ids, put_wallets, put_amounts FROM put;
    FOR i IN 1..coalesce(cardinality(put_ids), 0) LOOP
        took := took + put_amounts[i];
        IF put_wallets[i] IS DISTINCT FROM put_wallets[i + 1] THEN
            UPDATE billing_wallet SET held = held + took WHERE organization_id = put_wallets[i];
            took := 0;
        END IF;
    END LOOP;
    -- An id that was there before, although nobody said so: open means it is held, resolved means it came too late.
    FOR i IN 1..n LOOP
        EXIT WHEN cardinality(put_ids) = admitted;
        IF verdicts[i] = 1 AND ids[i] <> ALL(put_ids || known_ids) THEN
            SELECT state INTO known FROM billing_hold WHERE id = ids[i];
            IF known <> 'open' THEN
                verdicts[i] := 4;
            END IF;
        END IF;
    END LOOP;
END $$;
"""

CLOSE = """
-- Resolve holds: pay their cost from the hold, then from what is available, book the rest as absorbed; cost 0 releases.
-- It never fails for lack of funds, and each hold is resolved once: what was resolved before answers what it was then.
-- A hold that expired can still be charged, from what is available. A hold that is not there (the call was given up
-- before it was written) gets a resolved row of 0, so that it cannot be opened any more.
-- The last statement of its transaction: wallets stay locked until the commit.
CREATE FUNCTION billing_close_many(
    ids uuid[], wallets bigint[], costs bigint[], rates bigint[], reasons text[], outcome text, moment timestamptz
) RETURNS TABLE (hold_id uuid, charged bigint, absorbed bigint) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    seen uuid[];
    unseen uuid[];
    done uuid[];
    done_wallets bigint[];
    done_charged bigint[];
    done_absorbed bigint[];
    spender record;
BEGIN
    PERFORM set_config('plan_cache_mode', 'force_generic_plan', true);
    SELECT coalesce(array_agg(id), '{}') INTO seen
    FROM (SELECT id FROM billing_hold WHERE id = ANY(ids) ORDER BY id FOR NO KEY UPDATE) locked;
    PERFORM FROM billing_wallet WHERE organization_id = ANY(wallets) ORDER BY organization_id FOR NO KEY UPDATE;

    IF cardinality(seen) < cardinality(ids) THEN
        SELECT coalesce(array_agg(id), '{}') INTO unseen FROM unnest(ids) id WHERE id <> ALL(seen);
        INSERT INTO billing_hold (id, wallet_id, amount, state, owner, deadline_at, created_at, resolved_at)
        SELECT t.id, t.wallet, 0, CASE WHEN t.cost > 0 THEN 'expired' ELSE 'released' END, '', moment, moment, moment
        FROM unnest(ids, wallets, costs) t(id, wallet, cost)
        WHERE t.id = ANY(unseen) AND EXISTS (SELECT FROM billing_wallet WHERE organization_id = t.wallet)
        ON CONFLICT (id) DO NOTHING;
        -- Some may have been written between the first statement and the lock of their wallet. One of those that is
        -- locked is being resolved by somebody who waits for the wallet: it is left to him.
        SELECT seen || coalesce(array_agg(id), '{}') INTO seen
        FROM (SELECT id FROM billing_hold WHERE id = ANY(unseen) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED) locked;
    END IF;
    IF EXISTS (
        SELECT FROM unnest(ids, wallets) t(id, wallet) JOIN billing_hold h ON h.id = t.id WHERE h.wallet_id <> t.wallet
    ) THEN
        RAISE EXCEPTION 'a hold belongs to another wallet' USING ERRCODE = 'data_exception';
    END IF;

    WITH due AS (
        SELECT h.id, h.wallet_id, t.cost, t.rates, t.reason, CASE h.state WHEN 'open' THEN h.amount ELSE 0 END AS amount
        FROM unnest(ids, costs, rates, reasons) t(id, cost, rates, reason) JOIN billing_hold h ON h.id = t.id
        WHERE h.id = ANY(seen) AND (h.state = 'open' OR (h.state = 'expired' AND t.cost > 0))
    ), summed AS (
        -- What is cheaper than its hold leaves room for what is dearer, so it goes first.
        SELECT due.*, w.posted, greatest(cost - amount, 0) AS excess,
               row_number() OVER (PARTITION BY wallet_id ORDER BY cost > amount, id) AS place,
               sum(greatest(cost - amount, 0)) OVER (
                   PARTITION BY wallet_id ORDER BY cost > amount, id ROWS UNBOUNDED PRECEDING
               ) AS excess_so_far,
               w.posted + w.credit_limit - w.held
                   + sum(greatest(amount - cost, 0)) OVER (PARTITION BY wallet_id) AS room
        FROM due JOIN billing_wallet w ON w.organization_id = due.wallet_id
    ), charged AS (
        SELECT *, least(cost, amount) + least(excess_so_far, room) - least(excess_so_far - excess, room) AS charged
        FROM summed
    ), booked AS (
        SELECT *, cost - charged AS absorbed,
               posted - sum(charged) OVER (PARTITION BY wallet_id ORDER BY place ROWS UNBOUNDED PRECEDING) AS balance
        FROM charged
    ), resolved AS (
        UPDATE billing_hold h
        SET state = CASE WHEN booked.cost > 0 THEN 'settled' ELSE outcome END, resolved_at = moment
        FROM booked WHERE h.id = booked.id
    ), paid AS (
        UPDATE billing_wallet w SET posted = w.posted - total.charged, held = w.held - total.amount
        FROM (
            SELECT wallet_id, sum(charged) AS charged, sum(amount) AS amount FROM booked GROUP BY wallet_id
        ) total WHERE w.organization_id = total.wallet_id
    ), entries AS (
        INSERT INTO billing_entry (id, wallet_id, kind, debit, credit, amount, balance, hold_id, rates_id, reason,
                                   created_at)
        SELECT part.id, wallet_id, part.kind, part.debit, 'revenue', part.amount, balance, booked.id, rates, reason,
               moment
        FROM booked CROSS JOIN LATERAL (VALUES
            (booked.id, 'usage', 'wallet', charged),
            (md5('absorbed' || booked.id)::uuid, 'absorbed', 'absorbed', absorbed)
        ) part(id, kind, debit, amount)
        WHERE part.amount > 0
        ORDER BY wallet_id, place, part.kind DESC
    )
    SELECT array_agg(id), array_agg(wallet_id), array_agg(charged::bigint), array_agg(absorbed::bigint)
    INTO done, done_wallets, done_charged, done_absorbed FROM booked;

    FOR spender IN
        SELECT organization_id, sum(t.charged)::bigint AS spent
        FROM unnest(done_wallets, done_charged) t(wallet, charged)
        JOIN billing_wallet ON organization_id = t.wallet
        WHERE next_expiry_at IS NOT NULL GROUP BY organization_id ORDER BY organization_id
    LOOP
        PERFORM billing_draw_grants(spender.organization_id, spender.spent);
    END LOOP;

    RETURN QUERY SELECT * FROM unnest(done, done_charged, done_absorbed);
    IF cardinality(ids) > coalesce(cardinality(done), 0) THEN
        RETURN QUERY
            SELECT t.id, coalesce(sum(e.amount) FILTER (WHERE e.kind = 'usage'), 0)::bigint,
                   coalesce(sum(e.amount) FILTER (WHERE e.kind = 'absorbed'), 0)::bigint
            FROM unnest(ids) t(id) LEFT JOIN billing_entry e ON e.hold_id = t.id AND e.kind IN ('usage', 'absorbed')
            WHERE done IS NULL OR t.id <> ALL(done)
            GROUP BY t.id;
    END IF;
END $$;
"""

TRIGGERS = """
CREATE FUNCTION billing_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%: % refused, money is corrected by another entry', TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'restrict_violation';
END $$;

CREATE TRIGGER billing_entry_append_only BEFORE UPDATE OR DELETE ON billing_entry
    FOR EACH ROW EXECUTE FUNCTION billing_refuse_change();
CREATE TRIGGER billing_entry_no_truncate BEFORE TRUNCATE ON billing_entry
    FOR EACH STATEMENT EXECUTE FUNCTION billing_refuse_change();

CREATE TRIGGER billing_modelrates_immutable BEFORE UPDATE OR DELETE ON billing_modelrates
    FOR EACH ROW EXECUTE FUNCTION billing_refuse_change();
CREATE TRIGGER billing_modelrates_no_truncate BEFORE TRUNCATE ON billing_modelrates
    FOR EACH STATEMENT EXECUTE FUNCTION billing_refuse_change();

-- A hold leaves `open` once; an expired one may still be settled; nothing else of it changes.
CREATE TRIGGER billing_hold_resolved_once BEFORE UPDATE ON billing_hold
    FOR EACH ROW WHEN (
        OLD.state IN ('settled', 'released') OR (OLD.state = 'expired' AND NEW.state <> 'settled')
        OR NEW.id <> OLD.id OR NEW.wallet_id <> OLD.wallet_id OR NEW.amount <> OLD.amount
    ) EXECUTE FUNCTION billing_refuse_change();
CREATE TRIGGER billing_hold_no_delete BEFORE DELETE ON billing_hold
    FOR EACH ROW EXECUTE FUNCTION billing_refuse_change();
CREATE TRIGGER billing_hold_no_truncate BEFORE TRUNCATE ON billing_hold
    FOR EACH STATEMENT EXECUTE FUNCTION billing_refuse_change();

CREATE TRIGGER billing_wallet_no_delete BEFORE DELETE ON billing_wallet
    FOR EACH ROW EXECUTE FUNCTION billing_refuse_change();
CREATE TRIGGER billing_wallet_no_truncate BEFORE TRUNCATE ON billing_wallet
    FOR EACH STATEMENT EXECUTE FUNCTION billing_refuse_change();

CREATE TRIGGER billing_grant_no_delete BEFORE DELETE ON billing_grant
    FOR EACH ROW EXECUTE FUNCTION billing_refuse_change();
CREATE TRIGGER billing_grant_no_truncate BEFORE TRUNCATE ON billing_grant
    FOR EACH STATEMENT EXECUTE FUNCTION billing_refuse_change();

-- Wallets are updated all day: room on the page keeps those updates off the indexes.
ALTER TABLE billing_wallet SET (fillfactor = 50);
"""

UNDO = """
DROP FUNCTION billing_refuse_change() CASCADE;
DROP FUNCTION billing_close_many(uuid[], bigint[], bigint[], bigint[], text[], text, timestamptz);
DROP FUNCTION billing_hold_many(uuid[], bigint[], bigint[], text[], timestamptz[], boolean, boolean);
DROP FUNCTION billing_draw_grants(bigint, bigint);
DROP FUNCTION billing_expire_grants(bigint, timestamptz);
"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0001_initial")]

    operations = [migrations.RunSQL("".join((EXPIRE, DRAW, HOLD, CLOSE, TRIGGERS)), UNDO)]
