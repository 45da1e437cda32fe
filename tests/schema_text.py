"""The schema of a migrated database as one text, the same on every Postgres from 14 on.

Made of catalog queries and not of pg_dump, whose output differs by version. Views are given as their columns, since
how Postgres prints a view's query differs too; the migrations have it.

    python -m schema_text DSN > sql/schema.sql
"""

from __future__ import annotations

import asyncio
import sys
from typing import TypeAlias

import asyncpg

HEAD = "-- Written by `make schema` from sql/migrations; for reading, never to be applied.\n"

_Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

_RELATIONS = """
select c.oid, c.relname as name, c.relkind::text as kind, array_to_string(c.reloptions, ', ') as options,
       obj_description(c.oid, 'pg_class') as comment
  from pg_class c where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'v', 'c')
 order by c.relkind = 'v', c.relkind = 'r', c.relname collate "C"
"""
_COLUMNS = """
select a.attname as name, format_type(a.atttypid, a.atttypmod) as type, a.attnotnull as filled,
       a.attidentity::text as identity, pg_get_expr(d.adbin, d.adrelid) as value
  from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
 where a.attrelid = $1 and a.attnum > 0 and not a.attisdropped order by a.attnum
"""
_CONSTRAINTS = """
select conname as name, pg_get_constraintdef(oid, true) as definition from pg_constraint
 where conrelid = $1 and contype in ('c', 'f', 'p', 'u', 'x') order by contype = 'p' desc, conname collate "C"
"""
_INDEXES = """
select pg_get_indexdef(i.indexrelid) as definition from pg_index i join pg_class c on c.oid = i.indexrelid
 where i.indrelid = $1 and not exists (select from pg_constraint k where k.conindid = i.indexrelid)
 order by c.relname collate "C"
"""
_TRIGGERS = """
select pg_get_triggerdef(oid, true) as definition from pg_trigger
 where tgrelid = $1 and not tgisinternal order by tgname collate "C"
"""
_FUNCTIONS = """
select pg_get_functiondef(p.oid) as definition, p.oid::regprocedure::text as signature,
       has_function_privilege('public', p.oid, 'execute') as for_all
  from pg_proc p where p.pronamespace = 'public'::regnamespace and p.prokind = 'f'
 order by p.proname collate "C", pg_get_function_identity_arguments(p.oid) collate "C"
"""


async def describe(db: _Connection) -> str:
    """Types, tables with their indexes and triggers, views, and functions, each kind in the order of names."""
    await db.execute("set search_path = public, pg_catalog")
    parts = [HEAD]
    for relation in await db.fetch(_RELATIONS):
        parts.append(await _relation(db, relation))
    for function in await db.fetch(_FUNCTIONS):
        lines = [_unqualified(function["definition"]).rstrip() + ";"]
        if not function["for_all"]:
            lines.append(f"revoke execute on function {function['signature']} from public;")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


async def _relation(db: _Connection, relation: asyncpg.Record) -> str:
    oid, name, comment = relation["oid"], relation["name"], relation["comment"]
    columns = [_column(row) for row in await db.fetch(_COLUMNS, oid)]
    match relation["kind"]:
        case "c":
            return f"create type {name} as (\n  {_listed(columns)}\n);\n"
        case "v":
            return f"create view {name} (\n  {_listed(columns)}\n);\n"
    constraints = [
        f"constraint {row['name']} {row['definition']}" for row in await db.fetch(_CONSTRAINTS, oid)
    ]
    options = f" with ({relation['options']})" if relation["options"] else ""
    lines = [f"create table {name} (\n  {_listed([*columns, *constraints])}\n){options};"]
    if comment:
        lines.append(f"comment on table {name} is {_quoted(comment)};")
    for query in (_INDEXES, _TRIGGERS):
        lines += [_unqualified(row["definition"]) + ";" for row in await db.fetch(query, oid)]
    return "\n".join(lines) + "\n"


def _column(row: asyncpg.Record) -> str:
    words = [row["name"], row["type"]]
    if row["identity"]:
        words.append("generated always as identity")
    elif row["value"] is not None:
        words.append(f"default {row['value']}")
    if row["filled"]:
        words.append("not null")
    return " ".join(words)


def _listed(items: list[str]) -> str:
    return ",\n  ".join(items)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _unqualified(definition: str) -> str:
    return definition.replace("public.", "")


async def _print(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        sys.stdout.write(await describe(connection))
    finally:
        await connection.close()


if __name__ == "__main__":
    asyncio.run(_print(sys.argv[1]))
