"""A person's encrypted Matrix client, from another family than the bot's (matrix-nio with vodozemac).

Logs in, joins every room that it is invited to (one is the space of the task rooms), waits until it can read a message with
EXPECT, says SAY encrypted in that room, and waits until it can read ANSWER. Prints one JSON line for each step; ends with an error when a step takes too long.

Arguments: URL USER PASSWORD STORE EXPECT SAY ANSWER
"""

import asyncio
import json
import os
import sys

from nio import AsyncClient, AsyncClientConfig, InviteMemberEvent, MegolmEvent, RoomMessage

PATIENCE = 120


def tell(**step):
    print(json.dumps(step), flush=True)


async def main(url, user, password, store, expect, say, answer):
    os.makedirs(store, exist_ok=True)
    config = AsyncClientConfig(encryption_enabled=True, store_sync_tokens=True)
    client = AsyncClient(url, user, store_path=store, config=config)
    invitations, read, unreadable = asyncio.Queue(), [], []

    async def invited(room, event):
        if event.membership == "invite" and event.state_key == client.user_id:
            await invitations.put(room.room_id)

    async def message(room, event):
        read.append((room.room_id, event.sender, event.body, event.decrypted))

    async def megolm(room, event):
        unreadable.append(event.event_id)

    client.add_event_callback(invited, InviteMemberEvent)
    client.add_event_callback(message, RoomMessage)
    client.add_event_callback(megolm, MegolmEvent)
    await client.login(password)
    tell(step="logged in")
    syncing = asyncio.create_task(client.sync_forever(timeout=1000, full_state=True))

    async def join():
        while True:
            room = await invitations.get()
            tell(step="joined", room=room, answer=type(await client.join(room)).__name__)

    joining = asyncio.create_task(join())

    async def until(text):
        while True:
            for room, sender, body, decrypted in read:
                if text in body and sender != client.user_id:
                    assert decrypted, f"{body!r} was not encrypted"
                    return room, body
            await asyncio.sleep(0.1)

    async def steps():
        room, body = await until(expect)
        tell(step="read", body=body)
        content = {"msgtype": "m.text", "body": say}
        await client.room_send(room, "m.room.message", content, ignore_unverified_devices=True)
        tell(step="said")
        tell(step="answered", body=(await until(answer))[1])

    try:
        await asyncio.wait_for(steps(), PATIENCE)
    except asyncio.TimeoutError:
        why = repr(syncing.exception()) if syncing.done() else "it still listens"
        tell(step="too late", sync=why, read=[body for _, _, body, _ in read], unreadable=len(unreadable))
        sys.exit(1)
    finally:
        syncing.cancel()
        joining.cancel()
        await client.close()


asyncio.run(main(*sys.argv[1:]))
