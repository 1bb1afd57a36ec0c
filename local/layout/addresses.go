package layout

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
)

// Environment variables that move the cluster's networks out of the way of others.
const (
	EnvNodeCIDR    = "BULKHEAD_LOCAL_NODE_CIDR"
	EnvServiceCIDR = "BULKHEAD_LOCAL_SERVICE_CIDR"
	EnvPodCIDR     = "BULKHEAD_LOCAL_POD_CIDR"
)

// firstNode is the host part of the first node's address. Those below it are for
// the machine itself and whatever else joins the bridge.
const firstNode = 11

// ClusterDomain is the DNS domain of the super cluster's Services.
const ClusterDomain = "cluster.local"

// Settings are what a cluster is made with and cannot change while it exists.
type Settings struct {
	NodeCIDR    netip.Prefix `json:"nodeCIDR"`    // the bridge and the nodes; /24
	ServiceCIDR netip.Prefix `json:"serviceCIDR"` // ClusterIPs of the super cluster; /24 or wider
	PodCIDR     netip.Prefix `json:"podCIDR"`     // all pods; /16 or wider, a /24 of it per node
	Nodes       int          `json:"nodes"`
}

// Node is one node's name and addresses.
type Node struct {
	Name    string
	IP      netip.Addr
	PodCIDR netip.Prefix
}

// DefaultSettings are used where the environment says nothing.
func DefaultSettings() Settings {
	return Settings{
		NodeCIDR:    netip.MustParsePrefix("172.31.77.0/24"),
		ServiceCIDR: netip.MustParsePrefix("10.77.0.0/16"),
		PodCIDR:     netip.MustParsePrefix("10.78.0.0/16"),
		Nodes:       2,
	}
}

// FromEnvironment returns the default settings with what getenv overrides.
func FromEnvironment(getenv func(string) string) (Settings, error) {
	s := DefaultSettings()
	for name, prefix := range map[string]*netip.Prefix{
		EnvNodeCIDR: &s.NodeCIDR, EnvServiceCIDR: &s.ServiceCIDR, EnvPodCIDR: &s.PodCIDR,
	} {
		value := getenv(name)
		if value == "" {
			continue
		}
		parsed, err := netip.ParsePrefix(value)
		if err != nil {
			return Settings{}, fmt.Errorf("%s=%q is no network: write it like %s", name, value, *prefix)
		}
		*prefix = parsed
	}
	return s, s.Validate()
}

// Validate tells what is wrong with s and what to do about it.
func (s Settings) Validate() error {
	for _, c := range []struct {
		env     string
		prefix  netip.Prefix
		longest int
		exact   bool
	}{
		{EnvNodeCIDR, s.NodeCIDR, 24, true},
		{EnvServiceCIDR, s.ServiceCIDR, 24, false},
		{EnvPodCIDR, s.PodCIDR, 16, false},
	} {
		switch {
		case !c.prefix.IsValid() || !c.prefix.Addr().Is4():
			return fmt.Errorf("%s: %v is no IPv4 network", c.env, c.prefix)
		case c.prefix != c.prefix.Masked():
			return fmt.Errorf("%s: %v is an address inside a network: set it to %v", c.env, c.prefix, c.prefix.Masked())
		case c.exact && c.prefix.Bits() != c.longest:
			return fmt.Errorf("%s: %v must be a /%d", c.env, c.prefix, c.longest)
		case c.prefix.Bits() > c.longest || c.prefix.Bits() < 12:
			return fmt.Errorf("%s: %v must be between /12 and /%d", c.env, c.prefix, c.longest)
		}
	}
	for _, pair := range [][2]netip.Prefix{{s.NodeCIDR, s.ServiceCIDR}, {s.NodeCIDR, s.PodCIDR}, {s.ServiceCIDR, s.PodCIDR}} {
		if pair[0].Overlaps(pair[1]) {
			return fmt.Errorf("the networks %v and %v overlap: set %s, %s and %s apart", pair[0], pair[1], EnvNodeCIDR, EnvServiceCIDR, EnvPodCIDR)
		}
	}
	if s.Nodes < 1 || s.Nodes > 9 {
		return fmt.Errorf("%d nodes: must be 1 to 9", s.Nodes)
	}
	return nil
}

// HostIP is the address of the machine on the bridge, where the super control
// plane listens.
func (s Settings) HostIP() netip.Addr { return s.NodeCIDR.Addr().Next() }

// APIServiceIP is the ClusterIP of the kubernetes Service.
func (s Settings) APIServiceIP() netip.Addr { return s.ServiceCIDR.Addr().Next() }

// DNSServiceIP is the ClusterIP of the cluster's DNS.
func (s Settings) DNSServiceIP() netip.Addr { return offset(s.ServiceCIDR.Addr(), 10) }

// NodeList lists the nodes.
func (s Settings) NodeList() []Node {
	nodes := make([]Node, s.Nodes)
	for i := range nodes {
		nodes[i] = Node{
			Name:    fmt.Sprintf("node-%d", i+1),
			IP:      offset(s.NodeCIDR.Addr(), firstNode+i),
			PodCIDR: netip.PrefixFrom(offset(s.PodCIDR.Addr(), (i+1)*256), 24),
		}
	}
	return nodes
}

// APIServerURL is where clients find the super cluster.
func (s Settings) APIServerURL() string {
	return fmt.Sprintf("https://%s:%d", s.HostIP(), APIServerPort)
}

// RegistryAddress is host:port of the image registry.
func (s Settings) RegistryAddress() string {
	return netip.AddrPortFrom(s.HostIP(), RegistryPort).String()
}

// offset returns the IPv4 address n after a.
func offset(a netip.Addr, n int) netip.Addr {
	b := a.As4()
	v := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	v += uint32(n)
	return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
}

// LoadSettings reads the settings of the cluster that exists; ok is false when
// there is none.
func LoadSettings(file string) (s Settings, ok bool, err error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return Settings{}, false, nil
	}
	if err != nil {
		return Settings{}, false, err
	}
	if s, err = ParseSettings(data); err != nil {
		return Settings{}, false, fmt.Errorf("%s: %w", file, err)
	}
	return s, true, nil
}

// ParseSettings reads what Encode wrote.
func ParseSettings(data []byte) (Settings, error) {
	var s Settings
	if err := json.Unmarshal(data, &s); err != nil {
		return Settings{}, err
	}
	return s, s.Validate()
}

// Encode writes s for ParseSettings.
func (s Settings) Encode() ([]byte, error) {
	data, err := json.MarshalIndent(s, "", "  ")
	return append(data, '\n'), err
}
