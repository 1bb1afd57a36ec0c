package kernel_test

import (
	"context"
	"os/exec"
	"testing"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/bulkhead-dev/bulkhead/cri-ext/kernel"
	"github.com/bulkhead-dev/bulkhead/cri-ext/kernel/traffic"
	"github.com/bulkhead-dev/bulkhead/cri-ext/kernel/wire"
)

// engines are what to expect of each.
var engines = map[string]traffic.Options{
	"ipvs":     {Services: 2000, Flush: flushIPVS},
	"nftables": {Stores: true, Services: 10000, Flush: flushNFTables},
	"iptables": {Stores: true, Services: 2000, Flush: flushIPTables},
}

// examine runs the suite with an engine, and with at most so many services.
func examine(ctx context.Context, engine string, most int, report func(traffic.Result)) error {
	options := engines[engine]
	options.Families, options.Services = []string{kernel.IPv4, kernel.IPv6}, min(options.Services, most)
	open := func(ctx context.Context, namespace int, seed uint64) (traffic.Kernel, error) {
		k, err := kernel.Open(ctx, namespace, kernel.Options{Engines: []string{engine}, Seed: seed})
		if err != nil {
			return nil, err
		}
		return k, nil
	}
	return traffic.Run(ctx, open, options, report)
}

// Every engine that the kernel here has carries real traffic. IPVS does in a guest.
func TestTraffic(t *testing.T) {
	for _, engine := range []string{"nftables", "iptables"} {
		t.Run(engine, func(t *testing.T) {
			if err := examine(t.Context(), engine, 10000, func(r traffic.Result) {
				t.Run(r.Name, func(t *testing.T) {
					t.Logf("took %s", r.Took)
					if r.Err != nil {
						t.Error(r.Err)
					}
				})
			}); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func flushNFTables() error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	conn.FlushRuleset()
	return conn.Flush()
}

func flushIPTables() error {
	for _, command := range []string{"iptables", "ip6tables"} {
		for _, table := range []string{"nat", "filter"} {
			if err := exec.Command(command, "-t", table, "-F").Run(); err != nil {
				return err
			}
		}
	}
	return nil
}

// flushIPVS does what "ipvsadm --clear" does.
func flushIPVS() error {
	own, err := wire.Own()
	if err != nil {
		return err
	}
	defer unix.Close(own)
	socket, err := wire.Dial(own, unix.NETLINK_GENERIC)
	if err != nil {
		return err
	}
	defer socket.Close()
	var b wire.Builder
	b.Begin(unix.GENL_ID_CTRL, unix.NLM_F_ACK)
	b.Raw(unix.CTRL_CMD_GETFAMILY, 1, 0, 0)
	b.Text(unix.CTRL_ATTR_FAMILY_NAME, "IPVS")
	b.End()
	id := []byte{0, 0}
	err = socket.Read(context.Background(), b.Bytes, func(_ uint16, data []byte) error {
		copy(id, wire.Find(data[4:], unix.CTRL_ATTR_FAMILY_ID))
		return nil
	})
	if err != nil {
		return err
	}
	var flush wire.Builder
	flush.Begin(uint16(id[0])|uint16(id[1])<<8, unix.NLM_F_ACK)
	flush.Raw(17, 1, 0, 0)
	flush.End()
	return socket.Send(context.Background(), flush.Bytes, flush.Sequence())
}
