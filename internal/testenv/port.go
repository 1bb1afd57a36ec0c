package testenv

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"testing"
)

// Ports are taken from below those that Linux gives to connections and to listeners
// on port 0, so that none of them gets one between its reservation and its use, or
// while the process that uses it is down.
const firstPort, lastPort = 20000, 29999

// Port is a loopback port of this test program's own.
type Port struct {
	Number int
	// lock is a name that other test programs on this machine look for.
	lock net.Listener
}

// ReservePort returns a port that no other test program gets until it is released,
// or this one ends.
func ReservePort() (*Port, error) {
	const many = lastPort - firstPort + 1
	for i, start := 0, rand.IntN(many); i < many; i++ {
		number := firstPort + (start+i)%many
		// An abstract socket: it leaves no file, and goes with its process.
		lock, err := net.Listen("unix", "@bulkhead-testenv-port-"+strconv.Itoa(number))
		if err != nil {
			continue
		}
		port := &Port{Number: number, lock: lock}
		listener, err := net.Listen("tcp", port.Address())
		if err != nil { // somebody else's
			port.Release()
			continue
		}
		return port, listener.Close()
	}
	return nil, fmt.Errorf("no port from %d to %d is free", firstPort, lastPort)
}

// Address is host and port.
func (p *Port) Address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(p.Number)) }

// Release gives the port to whoever wants it.
func (p *Port) Release() { p.lock.Close() }

// FreeAddress is the address of a port that is the test's until it ends.
func FreeAddress(t testing.TB) string {
	t.Helper()
	port, err := ReservePort()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(port.Release)
	return port.Address()
}
