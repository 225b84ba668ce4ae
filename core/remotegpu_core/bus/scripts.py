"""What Redis does for a whole batch at once: one command, one answer, however many machines."""

from typing import Final

#: Samples, as KEYS the latest ones' keys, as ARGV their lifetime in milliseconds and then for each
#: machine its channel, how many samples follow, and those, oldest first. All of them are published,
#: the last is kept. Compare-and-set: nothing of an older connection replaces or follows what a newer
#: one left; a sample's first eight bytes are its epoch. Answers 0, or how many were not kept and why.
KEEP_SAMPLES: Final = b"""
local function number(bytes)
  local value = 0
  for place = 1, 8 do value = value * 256 + string.byte(bytes, place) end
  return value
end
local at, refused, reason = 2, 0, ''
for place = 1, #KEYS do
  local channel, last = ARGV[at], at + 1 + ARGV[at + 1]
  local newest = ARGV[last]
  local epoch, held = string.sub(newest, 1, 8), redis.call('GETRANGE', KEYS[place], 0, 7)
  if #held < 8 or held == epoch or number(held) <= number(epoch) then
    local answer = redis.pcall('SET', KEYS[place], newest, 'PX', ARGV[1])
    if answer.err then refused, reason = refused + 1, answer.err end
    for sample = at + 2, last do redis.call('PUBLISH', channel, ARGV[sample]) end
  end
  at = last + 1
end
if refused == 0 then return 0 end
return {refused, reason}
"""

#: Presence notes, as KEYS theirs, as ARGV their lifetime in milliseconds and then for each its epoch
#: and when the machine was heard. Compare-and-set like samples. Answers like `KEEP_SAMPLES`.
NOTE_PRESENCE: Final = b"""
local refused, reason = 0, ''
for place = 1, #KEYS do
  local epoch, seen_at = ARGV[2 * place], ARGV[2 * place + 1]
  local held = redis.call('GET', KEYS[place])
  if not held or tonumber(string.match(held, '^%d+')) <= tonumber(epoch) then
    local answer = redis.pcall('SET', KEYS[place], epoch .. ' ' .. seen_at, 'PX', ARGV[1])
    if answer.err then refused, reason = refused + 1, answer.err end
  end
end
if refused == 0 then return 0 end
return {refused, reason}
"""
