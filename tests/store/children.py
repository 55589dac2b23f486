"""Runs scripts in child processes that open a store on the same file."""

import subprocess
import sys
from pathlib import Path

PREAMBLE = """
import asyncio, json, os, resource, sys
from datetime import UTC, datetime
from wats.errors import StoreUnavailable
from wats.store import receive
from wats.store.records import Arrival, Consumer, DeliveryState, Settlement
from wats.store.sqlite import SQLiteStore

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)

def arrival(number, ordering_key=None):
    return Arrival(
        key=number.to_bytes(16, "big"), occurred_at=NOON, received_at=NOON, kind="message",
        phone_number_id="1", ordering_key=number if ordering_key is None else ordering_key,
        payload=b"x" * 500, consumers=("handlers",),
    )

def write(value):
    print(json.dumps(value), flush=True)

async def opened(lease_seconds=30.0):
    store = SQLiteStore(sys.argv[1])
    await store.open()
    await store.register([Consumer(name="handlers", lease_seconds=lease_seconds)])
    return store
"""
"""The beginning of every child: a store in the file of its first argument, and arrivals."""


def child(
    path: Path, script: str, *arguments: str, stdin: int | None = None
) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + script, str(path), *arguments],
        stdin=stdin,
        stdout=subprocess.PIPE,
        text=True,
    )
