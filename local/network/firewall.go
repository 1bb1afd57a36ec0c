package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"

	"github.com/bulkhead-dev/bulkhead/local/layout"
)

// ruleset renders our nftables table. The first two lines make loading it replace
// a table that is there, in one transaction; no other table is touched.
func ruleset(s layout.Settings) string {
	return fmt.Sprintf(`table inet %[1]s
delete table inet %[1]s
table inet %[1]s {
	# The machine answers on its bridge address to the bridge and itself only.
	chain input {
		type filter hook input priority filter; policy accept;
		iifname != { "lo", "%[2]s" } ip daddr %[3]s drop
	}
	# Nodes and pods may call out; nobody beyond the machine may call in.
	chain forward {
		type filter hook forward priority filter; policy accept;
		iifname != "%[2]s" oifname "%[2]s" ct state != { established, related } drop
	}
	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr { %[3]s, %[4]s } oifname != { "lo", "%[2]s" } masquerade
	}
}
`, layout.FirewallTable, layout.Bridge, s.NodeCIDR, s.PodCIDR)
}

// nft runs the nft program with a script on its standard input.
func nft(ctx context.Context, script string) error {
	cmd := exec.CommandContext(ctx, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(script)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("nft: %w: %s", err, strings.TrimSpace(out.String()))
	}
	return nil
}

func setFirewall(ctx context.Context, s layout.Settings) error {
	if err := nft(ctx, ruleset(s)); err != nil {
		return fmt.Errorf("loading nftables table %s: %w", layout.FirewallTable, err)
	}
	return nil
}

// removeFirewall deletes our table, whether or not it is there.
func removeFirewall(ctx context.Context) error {
	if _, err := exec.LookPath("nft"); errors.Is(err, exec.ErrNotFound) {
		return nil // nothing can have been loaded
	}
	if err := nft(ctx, fmt.Sprintf("table inet %[1]s\ndelete table inet %[1]s\n", layout.FirewallTable)); err != nil {
		return fmt.Errorf("deleting nftables table %s: %w", layout.FirewallTable, err)
	}
	return nil
}

// firewallLeft tells whether our table is loaded.
func firewallLeft(ctx context.Context) bool {
	return exec.CommandContext(ctx, "nft", "list", "table", "inet", layout.FirewallTable).Run() == nil
}
