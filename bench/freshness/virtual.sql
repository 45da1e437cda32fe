-- A database whose clock is a setting: names are looked up in this schema before pg_catalog, so that what reads the
-- clock in the product's own functions, defaults and statements reads this one. Run before the migrations.

create schema bench;

create function bench.clock_timestamp() returns timestamptz language sql volatile as
$$ select current_setting('bench.now')::timestamptz $$;

create function bench.now() returns timestamptz language sql volatile as
$$ select current_setting('bench.now')::timestamptz $$;

do $$
begin
  execute format('alter database %I set search_path = public, bench, pg_catalog', current_database());
  execute format('alter database %I set bench.now = %L', current_database(), '2026-01-01 00:00Z');
end $$;
