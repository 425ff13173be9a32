"""An emergency ward with one doctor: the most urgent patient is next; among equals, the first who came.

Run it::

    python examples/priority_triage.py             or        asyncpc run examples.priority_triage:pipeline

Expect the patients in the order in which the doctor saw them; all but the first came while he was busy with that one::

    urgency 4  sprained ankle      came as number 1
    urgency 1  heart attack        came as number 7
    urgency 2  deep cut            came as number 4
    urgency 2  broken arm          came as number 6
    urgency 4  earache             came as number 2
    urgency 4  sunburn             came as number 5
    urgency 5  form to be signed   came as number 3
"""

import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple

from asyncpc import consumer, producer, run


class Patient(NamedTuple):
    number: int  # in the order in which they came
    urgency: int  # 1 is the most urgent
    suffers: str


PATIENTS = [
    Patient(1, 4, "sprained ankle"),
    Patient(2, 4, "earache"),
    Patient(3, 5, "form to be signed"),
    Patient(4, 2, "deep cut"),
    Patient(5, 4, "sunburn"),
    Patient(6, 2, "broken arm"),
    Patient(7, 1, "heart attack"),
]


@producer
async def door() -> AsyncIterator[Patient]:
    first, *others = PATIENTS
    yield first
    await asyncio.sleep(0.02)
    for patient in others:
        yield patient


@consumer(priority=lambda patient: patient.urgency, maxsize=0)  # 0: all wait in the queue, sorted by urgency
async def doctor(patient: Patient) -> None:
    print(f"urgency {patient.urgency}  {patient.suffers:18}  came as number {patient.number}")
    await asyncio.sleep(0.1)


pipeline = door >> doctor

if __name__ == "__main__":
    run(pipeline)
