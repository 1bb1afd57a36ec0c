package feed

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/bulkhead-dev/bulkhead/internal/frame"
	"github.com/bulkhead-dev/bulkhead/internal/ruleset"
)

// version is that of the protocol; ends of different versions do not talk.
const version = 1

// Kinds of messages from the client.
const (
	kindClientHello    = 1 // JSON hello
	kindPod            = 2 // JSON Pod
	kindPodGone        = 3 // UID
	kindPodsComplete   = 4 // nothing
	kindSet            = 5 // trigger, ruleset.Set
	kindDelta          = 6 // trigger, ruleset.Delta
	kindPending        = 7 // JSON pending
	kindForget         = 8 // tenant's UID
	kindMetricsRequest = 9 // number
)

// Kinds of messages from the server.
const (
	kindServerHello = 65 // JSON hello
	kindResend      = 66 // JSON held: it holds this, and needs the whole set
	kindReport      = 67 // JSON Report
	kindMetrics     = 68 // number, text
	kindReplaced    = 69 // nothing: a newer feeder is there
)

type hello struct {
	Version int    `json:"version"`
	Held    []held `json:"held,omitempty"`
}

// held is Held with a readable digest.
type held struct {
	Tenant     types.UID `json:"tenant"`
	Generation uint64    `json:"generation"`
	Digest     string    `json:"digest"`
}

func fromHeld(h Held) held {
	return held{Tenant: h.Tenant, Generation: h.Generation, Digest: hex.EncodeToString(h.Digest[:])}
}

func (h held) decode() (Held, error) {
	result := Held{Tenant: h.Tenant, Generation: h.Generation}
	digest, err := hex.DecodeString(h.Digest)
	if err != nil || len(digest) != len(result.Digest) || h.Tenant == "" {
		return Held{}, fmt.Errorf("what the server holds of tenant %q is not valid", h.Tenant)
	}
	copy(result.Digest[:], digest)
	return result, nil
}

type pending struct {
	Tenant types.UID `json:"tenant"`
	Reason string    `json:"reason"`
}

// writeJSON writes one message; what is written here can always be encoded.
func writeJSON(w *frame.Writer, kind byte, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encoding message of kind %d: %w", kind, err)
	}
	return writeBytes(w, kind, data)
}

func writeBytes(w *frame.Writer, kind byte, data []byte) error {
	return w.Write(kind, func(buffer []byte) []byte { return append(buffer, data...) })
}

func readJSON(payload []byte, limit int, into any) error {
	if len(payload) > limit {
		return fmt.Errorf("message of %d bytes exceeds %d", len(payload), limit)
	}
	return json.Unmarshal(payload, into)
}

// appendTime appends when something happened, 0 if that is not known.
func appendTime(buffer []byte, at time.Time) []byte {
	if at.IsZero() {
		return binary.BigEndian.AppendUint64(buffer, 0)
	}
	return binary.BigEndian.AppendUint64(buffer, uint64(at.UnixNano()))
}

func cutTime(payload []byte) (time.Time, []byte, error) {
	number, rest, err := cutNumber(payload)
	if err != nil || number == 0 {
		return time.Time{}, rest, err
	}
	return time.Unix(0, int64(number)), rest, nil
}

func cutNumber(payload []byte) (uint64, []byte, error) {
	if len(payload) < 8 {
		return 0, nil, fmt.Errorf("message of %d bytes is too short", len(payload))
	}
	return binary.BigEndian.Uint64(payload), payload[8:], nil
}

// maxUID is the length of a UID in bytes, as in a rule set.
const maxUID = 64

func readUID(payload []byte) (types.UID, error) {
	if len(payload) == 0 || len(payload) > maxUID {
		return "", fmt.Errorf("UID of %d bytes", len(payload))
	}
	return types.UID(payload), nil
}

func (p Pod) check() error {
	for _, field := range []struct {
		name, value string
		limit       int
	}{{"uid", string(p.UID), maxUID}, {"tenant", string(p.Tenant), maxUID}, {"namespace", p.Namespace, 63}, {"name", p.Name, 253}} {
		if field.value == "" || len(field.value) > field.limit {
			return fmt.Errorf("pod %s/%s: its %s of %d bytes is not valid", p.Namespace, p.Name, field.name, len(field.value))
		}
	}
	return nil
}

// encodeRules appends a set or, where it is given, the delta that leads to it.
func encodeRules(w *frame.Writer, set *ruleset.Set, delta *ruleset.Delta, trigger time.Time) error {
	if delta != nil {
		return w.Write(kindDelta, func(buffer []byte) []byte { return delta.Encode(appendTime(buffer, trigger)) })
	}
	return w.Write(kindSet, func(buffer []byte) []byte { return set.Encode(appendTime(buffer, trigger)) })
}
