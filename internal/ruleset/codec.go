package ruleset

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"k8s.io/apimachinery/pkg/types"
)

// The encoding is canonical: equal sets have equal bytes, and bytes that another
// set could not have been encoded to are not accepted. Numbers are unsigned varints
// in their shortest form, addresses 4 or 16 bytes after their length, lists follow
// their length.
//
//	set     = format tenant generation ranges services
//	delta   = format tenant from to ranges services keys digest
//	service = key affinity endpoints
//	key     = address protocol port

// format is the version of the encoding.
const format = 1

var errShort = errors.New("rule set ends early")

// Encode appends the set to buffer.
func (s *Set) Encode(buffer []byte) []byte {
	buffer = append(buffer, format)
	buffer = appendTenant(buffer, s.tenant)
	buffer = binary.AppendUvarint(buffer, s.generation)
	buffer = appendRanges(buffer, s.ranges)
	return appendServices(buffer, s.services)
}

// Encode appends the delta to buffer.
func (d *Delta) Encode(buffer []byte) []byte {
	buffer = append(buffer, format)
	buffer = appendTenant(buffer, d.Tenant)
	buffer = binary.AppendUvarint(buffer, d.From)
	buffer = binary.AppendUvarint(buffer, d.To)
	buffer = appendRanges(buffer, d.Ranges)
	buffer = appendServices(buffer, d.Put)
	buffer = binary.AppendUvarint(buffer, uint64(len(d.Remove)))
	for _, key := range d.Remove {
		buffer = appendKey(buffer, key)
	}
	return append(buffer, d.Digest[:]...)
}

// EncodeServices appends services by themselves, such as a dump of a kernel.
func EncodeServices(buffer []byte, services []Service) []byte {
	return appendServices(buffer, services)
}

func appendTenant(buffer []byte, tenant types.UID) []byte {
	return append(binary.AppendUvarint(buffer, uint64(len(tenant))), tenant...)
}

func appendAddr(buffer []byte, addr netip.Addr) []byte {
	if addr.Is4() {
		bytes := addr.As4()
		return append(append(buffer, 4), bytes[:]...)
	}
	bytes := addr.As16()
	return append(append(buffer, 16), bytes[:]...)
}

func appendRanges(buffer []byte, ranges []netip.Prefix) []byte {
	buffer = binary.AppendUvarint(buffer, uint64(len(ranges)))
	for _, prefix := range ranges {
		buffer = append(appendAddr(buffer, prefix.Addr()), byte(prefix.Bits()))
	}
	return buffer
}

func appendKey(buffer []byte, key Key) []byte {
	buffer = append(appendAddr(buffer, key.Addr), byte(key.Protocol))
	return binary.BigEndian.AppendUint16(buffer, key.Port)
}

func appendServices(buffer []byte, services []Service) []byte {
	buffer = binary.AppendUvarint(buffer, uint64(len(services)))
	for i := range services {
		buffer = appendService(buffer, &services[i])
	}
	return buffer
}

func appendService(buffer []byte, s *Service) []byte {
	buffer = appendKey(buffer, s.Key)
	buffer = binary.AppendUvarint(buffer, uint64(s.Affinity))
	buffer = binary.AppendUvarint(buffer, uint64(len(s.Endpoints)))
	for _, endpoint := range s.Endpoints {
		buffer = appendAddr(buffer, endpoint.Addr())
		buffer = binary.BigEndian.AppendUint16(buffer, endpoint.Port())
	}
	return buffer
}

// DecodeSet reads a set and nothing after it.
func DecodeSet(data []byte) (*Set, error) {
	r := reader{data: data}
	s := &Set{}
	r.format()
	s.tenant = r.tenant()
	s.generation = r.number()
	s.ranges = r.ranges()
	s.services, s.backends = r.services()
	if err := r.end(); err != nil {
		return nil, err
	}
	if err := s.check(); err != nil {
		return nil, err
	}
	for i := range s.services {
		s.sum.add(s.services[i].hash())
	}
	return s, nil
}

// DecodeDelta reads a delta and nothing after it.
func DecodeDelta(data []byte) (*Delta, error) {
	r := reader{data: data}
	d := &Delta{}
	r.format()
	d.Tenant = r.tenant()
	d.From, d.To = r.number(), r.number()
	d.Ranges = r.ranges()
	d.Put, _ = r.services()
	count := r.length(MaxServices, keyBytes)
	for range count {
		d.Remove = append(d.Remove, r.key())
	}
	copy(d.Digest[:], r.take(len(d.Digest)))
	if err := r.end(); err != nil {
		return nil, err
	}
	if err := d.check(); err != nil {
		return nil, err
	}
	return d, nil
}

// DecodeServices reads what EncodeServices wrote, within the same bounds as a set.
func DecodeServices(data []byte) ([]Service, error) {
	r := reader{data: data}
	set := Set{tenant: "dump"}
	set.services, set.backends = r.services()
	if err := r.end(); err != nil {
		return nil, err
	}
	return set.services, set.check()
}

// The least bytes that a key, a service, an endpoint and a range take: a length
// that the rest of the data cannot hold is refused before memory is asked for.
const (
	keyBytes      = 1 + 4 + 1 + 2
	serviceBytes  = keyBytes + 2
	endpointBytes = 1 + 4 + 2
	rangeBytes    = 1 + 4 + 1
)

// reader takes a message apart. After the first error it returns zeros.
type reader struct {
	data []byte
	err  error
}

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err, r.data = err, nil
	}
}

func (r *reader) end() error {
	if r.err == nil && len(r.data) > 0 {
		r.err = fmt.Errorf("rule set: %d bytes too many", len(r.data))
	}
	return r.err
}

func (r *reader) take(n int) []byte {
	if n > len(r.data) {
		r.fail(errShort)
		return nil
	}
	taken := r.data[:n]
	r.data = r.data[n:]
	return taken
}

func (r *reader) byte() byte {
	if taken := r.take(1); taken != nil {
		return taken[0]
	}
	return 0
}

func (r *reader) uint16() uint16 {
	if taken := r.take(2); taken != nil {
		return binary.BigEndian.Uint16(taken)
	}
	return 0
}

func (r *reader) number() uint64 {
	if r.err != nil {
		return 0
	}
	value, n := binary.Uvarint(r.data)
	switch {
	case n <= 0:
		r.fail(errShort)
		return 0
	case n > 1 && r.data[n-1] == 0: // a longer form of the same number
		r.fail(errors.New("rule set: number is not in its shortest form"))
		return 0
	}
	r.data = r.data[n:]
	return value
}

// length reads the length of a list whose items take at least size bytes.
func (r *reader) length(limit, size int) int {
	n := r.number()
	if n > uint64(limit) {
		r.fail(fmt.Errorf("rule set: list of %d exceeds %d", n, limit))
		return 0
	}
	if int(n)*size > len(r.data) {
		r.fail(errShort)
		return 0
	}
	return int(n)
}

func (r *reader) format() {
	if version := r.byte(); r.err == nil && version != format {
		r.fail(fmt.Errorf("rule set: format %d is not known", version))
	}
}

func (r *reader) tenant() types.UID { return types.UID(r.take(r.length(maxTenant, 1))) }

func (r *reader) addr() netip.Addr {
	switch length := r.byte(); length {
	case 4:
		if taken := r.take(4); taken != nil {
			return netip.AddrFrom4([4]byte(taken))
		}
	case 16:
		if taken := r.take(16); taken != nil {
			return netip.AddrFrom16([16]byte(taken))
		}
	default:
		r.fail(fmt.Errorf("rule set: address of %d bytes", length))
	}
	return netip.Addr{}
}

func (r *reader) ranges() []netip.Prefix {
	count := r.length(MaxRanges, rangeBytes)
	if count == 0 {
		return nil
	}
	ranges := make([]netip.Prefix, 0, count)
	for range count {
		addr := r.addr()
		ranges = append(ranges, netip.PrefixFrom(addr, int(r.byte())))
	}
	return ranges
}

func (r *reader) key() Key {
	return Key{Addr: r.addr(), Protocol: Protocol(r.byte()), Port: r.uint16()}
}

func (r *reader) services() (services []Service, backends int) {
	count := r.length(MaxServices, serviceBytes)
	if count == 0 {
		return nil, 0
	}
	services = make([]Service, 0, count)
	for range count {
		service := Service{Key: r.key()}
		affinity := r.number()
		if affinity > MaxAffinity {
			r.fail(fmt.Errorf("rule set: affinity of %d seconds", affinity))
		}
		service.Affinity = uint32(affinity)
		endpoints := r.length(MaxEndpoints, endpointBytes)
		if endpoints > 0 {
			service.Endpoints = make([]netip.AddrPort, 0, endpoints)
		}
		for range endpoints {
			addr := r.addr()
			service.Endpoints = append(service.Endpoints, netip.AddrPortFrom(addr, r.uint16()))
		}
		if r.err != nil {
			return nil, 0
		}
		backends += endpoints
		services = append(services, service)
	}
	return services, backends
}
