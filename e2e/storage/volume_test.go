package main

import "testing"

func TestRoundSize(t *testing.T) {
	for in, want := range map[int64]int64{
		1:              mi,
		mi:             mi,
		mi + 1:         2 * mi,
		gi - 1:         gi,
		gi:             gi,
		gi + 1:         2 * gi,
		200 * gi:       200 * gi,
		1100 * mi:      2 * gi,
		20_000_000_000: 19 * gi,
	} {
		if got := roundSize(in); got != want {
			t.Errorf("roundSize(%d) = %d, want %d", in, got, want)
		}
	}
}

func TestClonedTakesEverythingFromItsSource(t *testing.T) {
	source := volume{dataset: "pool/t/a", origin: "pool/t/z@a", size: gi, node: "n", quotaType: "refquota",
		recordsize: "4K", compression: "gzip", shared: true, reserve: true, deleting: true}
	got := source.cloned("b")
	want := source
	want.dataset, want.origin, want.deleting = "pool/t/b", "pool/t/a@b", false
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
