package network

import (
	"testing"

	"github.com/bulkhead-dev/bulkhead/local/golden"
	"github.com/bulkhead-dev/bulkhead/local/layout"
)

func TestRuleset(t *testing.T) {
	golden.Check(t, "ruleset.nft", ruleset(layout.DefaultSettings()))
}
