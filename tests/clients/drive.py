"""Drives all fifteen tools with the official Python client and checks the answers.

In: the URL of a running server (argument 1) and the mode (argument 2): auto = the newest protocol, legacy = a session.
Out: "ok" and exit code 0, or what was wrong. CHARGEHAND_TEST_TASK, CHARGEHAND_TEST_LONG_TASK and
CHARGEHAND_TEST_ASKING_TASK are the descriptions of a task that ends, of one that does not end by itself, and of one whose
worker asks for a permission.
"""

import asyncio
import json
import os
import sys

from mcp import Client

URL, MODE = sys.argv[1:3]
SHORT = os.environ.get("CHARGEHAND_TEST_TASK", "Say the answer.")
LONG = os.environ.get("CHARGEHAND_TEST_LONG_TASK", "HANG for ever.")
ASKING = os.environ.get("CHARGEHAND_TEST_ASKING_TASK", "ASK first.")
AGENT = f"python-{MODE}-{os.getpid()}"
TOOLS = [
    "add_task_observer",
    "answer_task_request",
    "archive_task_conversation",
    "get_task_files",
    "get_task_history",
    "get_task_status",
    "health",
    "list_task_observers",
    "list_tasks",
    "opencode_execute_task",
    "ping",
    "read_task_file",
    "remove_task_observer",
    "send_task_control",
    "send_task_message",
]


def expect(fine: object, what: object) -> None:
    """Ends the program when something is not as it must be."""
    if not fine:
        sys.exit(f"wrong: {what}")


async def drive(client: Client) -> None:
    """The whole life of two tasks."""

    async def ok(name: str, **arguments: object) -> dict:
        result = await client.call_tool(name, arguments)
        expect(not result.is_error, f"{name} refused: {result.content[0].text}")
        body = json.loads(result.content[0].text)
        expect(result.structured_content == body, f"{name}: text and structured content differ")
        return body

    async def refused(name: str, **arguments: object) -> dict:
        result = await client.call_tool(name, arguments)
        expect(result.is_error, f"{name} did not refuse")
        return json.loads(result.content[0].text)

    async def until(task: str, *phases: str) -> dict:
        for look in range(60):
            # The first look does not wait: the phase may be there already, and a wait would be for the one after it.
            status = await ok("get_task_status", task_id=task, wait_seconds=2 if look else 0)
            if status["phase"] in phases:
                return status
        sys.exit(f"task {task} did not become {phases}")

    listed = await client.list_tools()
    expect(sorted(tool.name for tool in listed.tools) == TOOLS, "the list of tools")
    expect((await ok("ping"))["status"] == "ok", "ping")
    expect((await ok("health"))["status"] == "healthy", "health")

    accepted = await ok("opencode_execute_task", agent_id=AGENT, task_description=SHORT, labels=["official"])
    task = accepted["task_id"]
    done = await until(task, "completed", "failed", "timeout", "cancelled")
    expect(done["status"] == "completed" and done["exit_code"] == 0 and done["output"], done)
    # This server has no rooms, and says so.
    observer = {"observer_id": "@ann:example.org"}
    rooms = {"add_task_observer": observer, "list_task_observers": {}, "remove_task_observer": observer, "archive_task_conversation": {}}
    for name, arguments in rooms.items():
        said = await refused(name, task_id=task, **arguments)
        expect("homeserver" in said["error"], said)
    history = await ok("get_task_history", task_id=task, include_artifacts=True, events_limit=-1)
    expect(any(event["type"] == "task_completed" for event in history["events"]), "events")
    expect(any(artifact["name"] == "execution_output" for artifact in history["artifacts"]), "artifacts")
    files = await ok("get_task_files", task_id=task)
    for path in files["files"][:1]:
        expect((await ok("read_task_file", task_id=task, file_path=path))["file_path"] == path, path)
    found = await ok("list_tasks", agent_id=AGENT, label="official")
    expect(found["tasks"][0]["task_id"] == task, found)

    hanging = (await ok("opencode_execute_task", agent_id=AGENT, task_description=LONG))["task_id"]
    await until(hanging, "running")
    sent = await ok("send_task_message", task_id=hanging, message=f"{LONG} (go on)", message_type="guidance")
    expect(sent["delivery"] in ("sent", "kept"), sent)
    for control, status in [("pause", "paused"), ("resume", "running"), ("cancel", "cancelled")]:
        reached = await ok("send_task_control", task_id=hanging, control=control)
        expect(reached["status"] == status, reached)

    rules = {"allow": ["read"], "ask": ["bash:git push*"], "deny": ["webfetch"]}
    asking = await ok("opencode_execute_task", agent_id=AGENT, task_description=ASKING, attended=True, permissions=rules)
    asking = asking["task_id"]
    request = (await until(asking, "input_required"))["requests"][0]
    expect(request["kind"] == "permission" and request["answers"] == ["allow", "allow_always", "deny"], request)
    request = {"task_id": asking, "request_id": request["request_id"]}
    unfit = await refused("answer_task_request", **request, answer="choices", choices=[["yes"]])
    expect(unfit["code"] == "BAD_ANSWER", unfit)
    answered = await ok("answer_task_request", **request, answer="allow")
    expect(answered["answer"] == "allow", answered)
    await until(asking, "completed")

    wrong = await refused("get_task_status", task_id=task, wait_seconds=90)
    expect(wrong["fields"][0]["field"] == "wait_seconds", wrong)


async def main() -> None:
    """Connects and drives."""
    async with Client(f"{URL}/mcp", mode=MODE, read_timeout_seconds=60) as client:
        await drive(client)
    print("ok")


asyncio.run(main())
