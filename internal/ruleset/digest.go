package ruleset

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math/bits"
)

// Digest tells whether two sets hold the same rules, whatever their generations.
type Digest [sha256.Size]byte

// String is the digest in short, for people.
func (d Digest) String() string { return hex.EncodeToString(d[:6]) }

// sum is the sum of the services' hashes modulo 2^256. A delta changes it in time
// that follows the delta and not the set. It finds what was lost or damaged on the
// way. Somebody who chooses the services of a tenant can, with effort, make two
// sets that are equal by it, and deceives nobody but that tenant's own sandboxes.
type sum [4]uint64

func (s *sum) add(h [sha256.Size]byte) {
	var carry uint64
	for i := range s {
		s[i], carry = bits.Add64(s[i], binary.LittleEndian.Uint64(h[8*i:]), carry)
	}
}

func (s *sum) subtract(h [sha256.Size]byte) {
	var borrow uint64
	for i := range s {
		s[i], borrow = bits.Sub64(s[i], binary.LittleEndian.Uint64(h[8*i:]), borrow)
	}
}

func (s *Service) hash() [sha256.Size]byte {
	var space [256]byte
	return sha256.Sum256(appendService(space[:0], s))
}

// Digest covers the tenant, the ranges and the services.
func (s *Set) Digest() Digest {
	buffer := appendTenant(nil, s.tenant)
	buffer = appendRanges(buffer, s.ranges)
	buffer = binary.AppendUvarint(buffer, uint64(len(s.services)))
	for _, word := range s.sum {
		buffer = binary.LittleEndian.AppendUint64(buffer, word)
	}
	return sha256.Sum256(buffer)
}
