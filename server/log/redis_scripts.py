"""What Redis does in one step, so that nothing comes in between: append, recover, own, forget.

Every script is safe to repeat: a batch that was applied is known by its name, and a stale owner by its fence.
"""

from __future__ import annotations

from server.log.redis_link import Script

APPEND = Script("""
-- keys: stream, states, meta, fence, memory, index
-- args: life, fence, old epoch, old last, new epoch, new last, floor, batch, now ms, retention ms, most entries,
--       memory or '', then offset, kind, key, flags, body of each entry
local fence = redis.call('GET', KEYS[4])
if ARGV[2] ~= '' and fence and fence ~= ARGV[2] then return {'fenced'} end
local meta = redis.call('HMGET', KEYS[3], 'epoch', 'life', 'last', 'batch', 'floor')
if meta[4] == ARGV[8] then return {'ok'} end
local epoch, last = meta[1] or '', meta[3] or '0'
local renewed = ARGV[5] ~= ARGV[3]
if epoch ~= ARGV[3] or last ~= ARGV[4] or (meta[2] ~= ARGV[1] and not renewed) then
    return {'moved', epoch, last, meta[2] or ''}
end
if renewed then redis.call('DEL', KEYS[1], KEYS[2]) end
for i = 13, #ARGV, 5 do
    local offset, kind, key, flags, body = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
    redis.call('XADD', KEYS[1], offset .. '-0', 'kind', kind, 'key', key, 'flags', flags, 'body', body)
    local pushed = ARGV[5] .. ' ' .. offset .. ' ' .. kind .. ' ' .. flags .. ' ' .. #key .. ' ' .. key .. ' ' .. body
    if tonumber(flags) >= 2 then redis.call('HDEL', KEYS[2], kind .. '/' .. key)
    else redis.call('HSET', KEYS[2], kind .. '/' .. key, pushed) end
    redis.call('PUBLISH', KEYS[1], pushed)
end
local floor = renewed and ARGV[7] or meta[5] or '0'
local kept = tonumber(ARGV[6]) - tonumber(ARGV[11])
if kept > tonumber(floor) then
    floor = string.format('%d', kept)
    redis.call('XTRIM', KEYS[1], 'MINID', '=', string.format('%d', kept + 1) .. '-0')
end
redis.call('HSET', KEYS[3], 'epoch', ARGV[5], 'life', ARGV[1], 'last', ARGV[6], 'floor', floor, 'batch', ARGV[8])
if ARGV[12] ~= '' then redis.call('SET', KEYS[5], ARGV[12]) end
for i = 1, 5 do redis.call('PEXPIRE', KEYS[i], ARGV[10]) end
redis.call('ZADD', KEYS[6], ARGV[9], KEYS[1])
return {'ok'}
""")

RECOVER = Script("""
-- keys: stream, states, meta; args: life, epoch, offset, most entries, epoch of a new channel, its time to live ms
local meta = redis.call('HMGET', KEYS[3], 'epoch', 'life', 'last', 'floor')
if not meta[1] then
    redis.call('HSET', KEYS[3], 'epoch', ARGV[5], 'life', ARGV[1], 'last', '0', 'floor', '0')
    redis.call('PEXPIRE', KEYS[3], ARGV[6])
    meta = {ARGV[5], ARGV[1], '0', '0'}
end
if meta[2] ~= ARGV[1] then
    return {'stale', meta[1], meta[3], meta[4], redis.call('HVALS', KEYS[2])}
end
local last, offset = tonumber(meta[3]), tonumber(ARGV[3])
if ARGV[2] == meta[1] and offset >= tonumber(meta[4]) and offset <= last and last - offset <= tonumber(ARGV[4]) then
    return {'tail', meta[1], meta[3], meta[4], redis.call('XRANGE', KEYS[1], '(' .. ARGV[3] .. '-0', '+')}
end
return {'snapshot', meta[1], meta[3], meta[4], redis.call('HVALS', KEYS[2])}
""")

READ = Script("""
-- keys: stream, meta; args: life, epoch or '', offset, count
local meta = redis.call('HMGET', KEYS[2], 'epoch', 'life', 'last', 'floor')
if not meta[1] then return {'none'} end
local offset = ARGV[3]
if ARGV[2] == '' then offset = meta[4]
elseif ARGV[2] ~= meta[1] or tonumber(offset) < tonumber(meta[4]) or tonumber(offset) > tonumber(meta[3]) then
    return {'unknown'}
end
return {'tail', meta[1], redis.call('XRANGE', KEYS[1], '(' .. offset .. '-0', '+', 'COUNT', ARGV[4])}
""")

ALL = (APPEND, RECOVER, READ)
