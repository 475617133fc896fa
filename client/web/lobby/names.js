// Names for rooms that nobody has to think of, easy to say over the telephone.

const HOW = [
  "amber", "bold", "brave", "bright", "calm", "clever", "cosy", "early", "gentle", "golden",
  "happy", "lucky", "merry", "misty", "mossy", "quick", "quiet", "silver", "sleepy", "snowy",
  "sunny", "swift", "tiny", "windy",
];
const WHAT = [
  "acorn", "badger", "beetle", "brook", "clover", "comet", "dune", "falcon", "fern", "fox",
  "harbour", "hedgehog", "island", "lantern", "maple", "otter", "owl", "pebble", "pine",
  "river", "sparrow", "thistle", "tulip", "willow",
];

export function suggestName(random = Math.random) {
  const pick = (words) => words[Math.floor(random() * words.length)];
  return `${pick(HOW)}-${pick(WHAT)}`;
}
