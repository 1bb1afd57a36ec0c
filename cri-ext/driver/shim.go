package driver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/bulkhead-dev/bulkhead/cri-ext/transport"
)

// shim asks a Kata shim, each time anew, where its guest is: a vsock's context ID is
// used again once its guest is gone. See "kata-runtime exec" in Kata's documents for
// the question, GET /agent-url on the shim's management socket.
type shim struct {
	registry *transport.Registry
	sandbox  string
	socket   string
	port     uint32

	mu    sync.Mutex
	inner transport.Dialer
}

// urlLimit bounds the shim's answer in bytes, askTimeout its time.
const (
	urlLimit   = 4096
	askTimeout = 5 * time.Second
)

func (s *shim) String() string { return "the guest of the Kata shim at " + s.socket }

// Serial is false: both ways that a shim may name have connections.
func (s *shim) Serial() bool { return false }

func (s *shim) Dial(ctx context.Context) (transport.Conn, error) {
	url, err := s.ask(ctx)
	if err != nil {
		return nil, fmt.Errorf("asking the Kata shim of sandbox %s for its guest: %w", s.sandbox, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.give(); err != nil {
		return nil, err
	}
	if s.inner, err = s.claim(url); err != nil {
		return nil, err
	}
	return s.inner.Dial(ctx)
}

// give gives up the claim to where the guest was.
func (s *shim) give() error {
	if s.inner == nil {
		return nil
	}
	err := s.inner.Close()
	s.inner = nil
	return err
}

// claim takes vsock://CID:PORT or hvsock://PATH:PORT. The port is that of Kata's agent.
func (s *shim) claim(url string) (transport.Dialer, error) {
	scheme, rest, _ := strings.Cut(strings.TrimSpace(url), "://")
	cut := strings.LastIndexByte(rest, ':')
	if cut < 0 {
		return nil, fmt.Errorf("the Kata shim of sandbox %s answers %q, which is no address", s.sandbox, url)
	}
	switch address := rest[:cut]; scheme {
	case "hvsock":
		if !strings.Contains(filepath.Clean(address), s.sandbox) {
			return nil, fmt.Errorf("the Kata shim of sandbox %s names socket %q, which is not that sandbox's", s.sandbox, address)
		}
		return s.registry.Hybrid(s.sandbox, transport.Socket{Path: filepath.Clean(address)}, s.port)
	case "vsock":
		cid, err := strconv.ParseUint(address, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("the Kata shim of sandbox %s answers %q, which is no address", s.sandbox, url)
		}
		return s.registry.Vsock(s.sandbox, uint32(cid), s.port)
	}
	return nil, fmt.Errorf("the Kata shim of sandbox %s answers %q, which is no vsock", s.sandbox, url)
}

func (s *shim) ask(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", s.socket)
		},
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://shim/agent-url", nil)
	if err != nil {
		return "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, urlLimit))
	switch {
	case err != nil:
		return "", err
	case response.StatusCode != http.StatusOK:
		return "", fmt.Errorf("%s: %.200s", response.Status, answer)
	case len(answer) == 0:
		return "", errors.New("the answer is empty")
	}
	return string(answer), nil
}

// Close gives up the guest.
func (s *shim) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.give()
}
