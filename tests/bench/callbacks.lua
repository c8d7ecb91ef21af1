-- Signed member exits of 10,000 groups; the Sign changes every second. Threads of wrk each run this file.
local token, app = os.getenv("BENCH_TOKEN"), "1400000000"
local signs = {}
for line in io.lines(os.getenv("BENCH_SIGNS")) do
  local time, sign = line:match("(%d+) (%x+)")
  signs[tonumber(time)] = sign
end

local number, second, path = math.random(10000), 0, ""
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"

request = function()
  local now = os.time()
  if now ~= second then
    second = now
    path = "/callback?SdkAppid=" .. app .. "&CallbackCommand=Group.CallbackAfterMemberExit&contenttype=json"
      .. "&ClientIP=127.0.0.1&OptPlatform=RESTAPI&Sign=" .. (signs[now] or "") .. "&RequestTime=" .. now
  end
  number = number % 10000 + 1
  local body = '{"CallbackCommand":"Group.CallbackAfterMemberExit","GroupId":"@TGS#' .. number
    .. '","Type":"Public","ExitType":"Kicked","Operator_Account":"leckie","ExitMemberList":'
    .. '[{"Member_Account":"jared"},{"Member_Account":"tommy"}],"EventTime":"' .. now .. string.format("%03d", number % 1000) .. '"}'
  return wrk.format(nil, path, nil, body)
end

-- With BENCH_DELAY_MS each connection waits so long between its callbacks: a rate instead of all that goes.
local delay_ms = tonumber(os.getenv("BENCH_DELAY_MS") or "")
if delay_ms then
  delay = function() return math.random(0, 2 * delay_ms) end
end

done = function(summary, latency, requests)
  io.write(string.format("p99.9 %dus\nslowest %dus\n", latency:percentile(99.9), latency.max))
end
