"""Makes the database of a classic Letta server: one that runs already, named by LETTA_PG_URI's host and port.

In: the port of PostgreSQL. Out: the database `letta` with every table. The published package has no migrations, so the
tables come from its own models, and the sequence that its migrations would have made is made here. Test tool only.
"""

import asyncio
import sys

import asyncpg
from sqlalchemy import text


async def database(port: int) -> None:
    admin = await asyncpg.connect(host="127.0.0.1", port=port, user="letta", database="postgres", ssl=False)
    try:
        if not await admin.fetchval("select count(*) from pg_database where datname = $1", "letta"):
            await admin.execute("create database letta")
    finally:
        await admin.close()


async def tables() -> None:
    import letta.orm  # noqa: F401  every model registers itself
    from letta.orm.base import Base
    from letta.server.db import engine

    async with engine.begin() as connection:
        await connection.execute(text("create extension if not exists vector"))
        await connection.run_sync(Base.metadata.create_all)
        # Messages are ordered by it; without a default no agent can be created.
        await connection.execute(text("create sequence if not exists message_seq_id"))
        await connection.execute(
            text("alter table messages alter column sequence_id set default nextval('message_seq_id')")
        )


async def main() -> None:
    await database(int(sys.argv[1]))
    await tables()


asyncio.run(main())
