"""What the Redis server does for the engine ``redis``, in one step each: one script with a function for each call.

Keys, for a queue named ``jobs``: the streams ``jobs``, ``{jobs}:suspects`` (what was delivered so often that it is
received alone) and ``{jobs}:dead``, the sorted set ``{jobs}:delayed``, the sets ``{jobs}:seen:…`` of known ids, and
``{jobs}:checked``, which lets one process at a time look for leases that have run out. ``{jobs}:sure:…`` is there as
long as nobody has taken a delivery from that consumer: it need not look whether what it settles is still its own.

An entry of a stream has the fields meta (time, headers as JSON, and id: a line each, since each field costs time) and
body; and attempt, if it was delivered as another entry before.
The pending entries of the group ``asyncpc`` are the deliveries: their owner, the age of their lease, and how often each
was delivered. So a message has been delivered as often as its field and its pending entry tell together.
"""

from __future__ import annotations

from typing import Final

from ...broker import SUSPECT_AFTER
from .script_calls import CALLS
from .script_looks import LOOKS

__all__ = ["AT_ONCE", "GROUP", "SCRIPT"]

GROUP: Final = "asyncpc"
"""The name of the consumer group."""

AT_ONCE: Final = 500
"""Messages of one call: Lua unpacks some thousand values at most, and the server does nothing else meanwhile."""

SCRIPT: Final = (
    """
local READY, SUSPECTS, DELAYED, DEAD, SEEN, CHECKED, SURE = unpack(KEYS)
local ME, LEASE = ARGV[2], tonumber(ARGV[3])
local GROUP, SUSPECT_AFTER, AT_ONCE = """
    f"'{GROUP}', {SUSPECT_AFTER}, {AT_ONCE}"
    """
local STREAMS = {READY, SUSPECTS}
local call, calls = redis.call, {}
local clock = call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

-- one message ---------------------------------------------------------------------------------

local function named(flat)
  local found = {}
  for i = 1, #flat, 2 do found[flat[i]] = flat[i + 1] end
  return found
end

local function message_of(entry, fields)  -- only what we know: others may write into the stream too
  local found = named(fields)
  found.meta, found.body = found.meta or '\\n\\n' .. entry, found.body or ''
  local attempt = tostring(found.attempt)
  found.attempt = #attempt < 7 and attempt:match('^%d+$') and tonumber(attempt) or 0
  return found
end

local function message_at(stream, entry)
  local row = call('XRANGE', stream, entry, entry)[1]
  return row and message_of(entry, row[2])
end

local function put(one, attempt)
  local stream = attempt < SUSPECT_AFTER and READY or SUSPECTS
  call('XADD', stream, '*', 'meta', one.meta, 'body', one.body, 'attempt', attempt)
end

local function put_later(one, attempt, due, place)  -- the clock and the place keep the order of what is due at once
  local order = string.format('%010d%06d%06d', clock[1], clock[2], place)
  call('ZADD', DELAYED, due, order .. cmsgpack.pack({one.meta, one.body, attempt}))
end

local function forget(stream, entries)  -- in this order, which keeps the lag right that autoscalers read
  local count = 0
  for i = 1, #entries, AT_ONCE do
    local last = math.min(i + AT_ONCE - 1, #entries)
    count = count + call('XACK', stream, GROUP, unpack(entries, i, last))
    call('XDEL', stream, unpack(entries, i, last))
  end
  return count
end

local function group_of(stream)  -- pending, and the entry that was delivered last
  for _, flat in ipairs(call('XINFO', 'GROUPS', stream)) do
    local found = named(flat)
    if found.name == GROUP then return found.pending, found['last-delivered-id'] end
  end
  return 0, '0-0'
end

local function forget_consumer(stream, consumer)  -- but not with pending entries, which would be lost
  call('DEL', SURE .. consumer)
  if #call('XPENDING', stream, GROUP, '-', '+', 1, consumer) == 0 then
    call('XGROUP', 'DELCONSUMER', stream, GROUP, consumer)
  end
end

-- which of the deliveries named from ARGV[first] on, each by its entry and count, are still ours ---------------

local function ours(stream, first, step)
  local count, held, mine = (#ARGV - first + 1) / step, {}, {}
  if count > 1 then  -- most likely the oldest that we have
    for _, row in ipairs(call('XPENDING', stream, GROUP, '-', '+', count + 50, ME)) do held[row[1]] = row[4] end
  end
  for i = first, #ARGV, step do
    local entry, delivered = ARGV[i], held[ARGV[i]]
    if delivered == nil then
      local row = call('XPENDING', stream, GROUP, entry, entry, 1, ME)[1]
      delivered = row and row[4]
    end
    if delivered == tonumber(ARGV[i + 1]) then
      mine[#mine + 1] = entry
      held[entry] = false
    end
  end
  return mine
end

local function arguments_of(first, step)
  local found = {}
  for i = first, #ARGV, step do found[ARGV[i]] = i end
  return found
end
"""
    f"{CALLS}{LOOKS}"
    """
return calls[ARGV[1]]()
"""
)
