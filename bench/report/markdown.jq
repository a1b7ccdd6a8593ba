# The report as Markdown, from the JSON that scripts/bench puts together.

def digits: if . == null then "" elif . == 0 then "0" elif fabs >= 100 then (round | tostring)
  elif fabs >= 10 then (. * 10 | round / 10 | tostring)
  elif fabs >= 0.1 then (. * 1000 | round / 1000 | tostring)
  else (. * 100000 | round / 100000 | tostring) end;
def spread: "\(.median | digits) | \(.min | digits) to \(.max | digits)";
def with_unit: if .unit == "" then .what else "\(.what), \(.unit)" end;
def verdict: if .met then "met" else
  "NOT met, by \((if .at_least then .target - .median else .median - .target end) | digits)" end;
def table(head): ["| " + (head | join(" | ")) + " |", "|" + (head | map("---|") | add)] | join("\n");
def line: "| " + join(" | ") + " |";

def targets: .rows | map(select(has("target")))
  | table(["what", "sizes", "threads", "measured", "spread", "target", ""]),
    (.[] | [with_unit, .setting, .threads, spread,
      "\(if .at_least then "≥" else "≤" end) \(.target | digits)", verdict] | line);

# One line for each layer and number of threads.
def layers: (.rows | map(select(.what == "layer time")))[] as $t
  | (.rows | map(select(.setting == $t.setting and .threads == $t.threads))) as $own
  | def value(name): $own | map(select(.what == name))[0].median | digits;
  [$t.setting, $t.threads, ($t.median | digits), value("layer rate"),
   (.rows | map(select(.setting == "beside " + $t.setting and .threads == $t.threads))[0].median | digits),
   value("layer over product rate")] | line;

def others: .rows | map(select((has("target") | not)
    and (.what | test("^(layer|product) (time|rate)|^layer over") | not)))[]
  | [with_unit, .setting, .threads, spread] | line;

# The peers: `rows` of one case, part and number of threads, by time.
def groups: group_by([.case, .part, .threads]) | map(sort_by(.median));
def best(peer): map(select(.peer == peer))[0];
def times: if . == null then "" else
  "\(.median | digits) (\(.min | digits) to \(.max | digits))\(if .variant == "" then "" else ", " + .variant end)" end;

def peer_layers: .rows | map(select(.part == "step" and (.case | startswith("N")))) as $rows
  | ($rows | map(.case) | unique) as $unsorted
  | (reduce $rows[].case as $c ([]; if index($c) then . else . + [$c] end))[] as $case
  | ($rows | map(select(.case == $case)) | groups)[]
  | (map(select(.variant == "loop"))[0]) as $loop
  | [$case, .[0].threads, (.[0].ours_ms | digits), ($loop | times), (best("torch") | times), (best("jax") | times),
     (best("torch").median as $m | if $m == null then "not measured" elif $m >= 2 then "met"
        else "NOT met, by \(2 - $m | digits)" end)] | line;

def peer_models: .rows | map(select((.case | startswith("N") | not) and .case != "tape" and .part != "busy")) | groups[]
  | [.[0].case, .[0].part, .[0].threads, (.[0].ours_ms | digits), (best("torch") | times), (best("jax") | times)] | line;

# Seconds for the gradient over those for the forward pass, of moegrad and of each peer.
def peer_gradients: .rows as $rows | ("mlp", "small-mlp") as $case
  | ($rows | map(select(.case == $case and .part == "forward")))[] as $f
  | ($rows | map(select(.case == $case and .part == "gradient" and .threads == $f.threads and .peer == $f.peer))[0]) as $g
  | [$case, $f.threads, $f.peer, ($g.ours_ms / $f.ours_ms | digits), ($g.theirs_ms / $f.theirs_ms | digits)] | line;

def machine: .machine | "Machine: \(.cores) cores of \(.cpu) (\(.vectors)). \(.compiler), oneDNN \(.onednn), Eigen \(.eigen). "
  + "Revision \(.revision). Command: `\(.command)`.";

machine,
"", "### Targets", "",
"Medians over rounds in which both sides take turns; the spread is that of the rounds.", "",
targets,
"", "### The bare layer", "", "Forward and backward; the product is 1024^3 by oneDNN, in the same rounds.", "",
table(["sizes", "threads", "ms", "GFLOP/s", "product, GFLOP/s", "share"]), layers,
"", "### Further measurements", "",
table(["what", "sizes", "threads", "measured", "spread"]), others,
if .peers == null then "", "### Peers", "", "Not measured in this run: `scripts/bench --peers`."
else .peers |
  "", "### Peers", "",
  "Versions: \(.versions | to_entries | map("\(.key) \(.value)") | join(", ")). A number is the peer's time over ours, "
  + "with the spread over rounds: above 1, moegrad is faster. Results agree within 1e-4.",
  (if .notes == [] then empty else "", (.notes[] | "- \(.)") end),
  "", "The layer, forward and backward, plan included; the target is 2 against the fastest of PyTorch.", "",
  table(["sizes", "threads", "ours, ms", "PyTorch, loop", "PyTorch, fastest", "JAX, fastest", ""]), peer_layers,
  "", "Models: a training step with clipping and AdamW, the gradient, the forward pass alone.", "",
  table(["model", "part", "threads", "ours, ms", "PyTorch, fastest", "JAX, fastest"]), peer_models,
  "", "Gradient over forward pass.", "",
  table(["model", "threads", "peer", "ours", "theirs"]), peer_gradients,
  "", "Memory above what is there before, of one layer step, \(.rows[] | select(.part == "memory" and .peer == "moegrad") | .case), one thread.", "",
  table(["program", "MiB"]),
  (.rows[] | select(.part == "memory") | ["\(.peer) \(.variant)", (.mebibytes | digits)] | line),
  "", "A step after a pause of 50 ms, while a process that spins keeps every processor busy, ms.", "",
  table(["case", "program", "threads", "ms", "spread"]),
  (.rows[] | select(.part == "busy") | [.case, "\(.peer) \(.variant)", .threads, (.ms | digits),
    "\(.min | digits) to \(.max | digits)"] | line),
  "", "Tape: an operation on a tensor of one element, ns.", "",
  table(["program", "part", "ns", "over ours"]),
  (.rows[] | select(.case == "tape") | [.peer, .part, (.ns | digits), times] | line)
end
