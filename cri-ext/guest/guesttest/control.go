package guesttest

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"time"
)

// Request is what the host asks the guest's init for, a line of JSON.
type Request struct {
	// Do is "dial", "drift", "restart" or "memory".
	Do string `json:"do"`
	// Network and Addresses are dialled, each Times times.
	Network   string   `json:"network,omitempty"`
	Addresses []string `json:"addresses,omitempty"`
	Times     int      `json:"times,omitempty"`
}

// Reply is the guest's answer, a line of JSON.
type Reply struct {
	// Answers are what was read from each address in turn; what could not be dialled
	// or read has Refused before the reason.
	Answers []string `json:"answers,omitempty"`
	// Error is empty if what was asked for has been done.
	Error string `json:"error,omitempty"`
	// Memory is the agent's resident memory in KiB.
	Memory int `json:"memory,omitempty"`
}

// Refused precedes the reason why an address did not answer.
const Refused = "refused: "

// DialTimeout is how long the guest waits for one answer.
const DialTimeout = 10 * time.Second

// control is the line to the guest's init.
type control struct {
	conn    net.Conn
	replies *bufio.Reader
}

// ask asks the guest's init. The context's deadline bounds it.
func (c *control) ask(ctx context.Context, request Request) (Reply, error) {
	line, err := json.Marshal(request)
	if err != nil {
		return Reply{}, err
	}
	deadline, _ := ctx.Deadline() // none is no deadline
	if err := c.conn.SetDeadline(deadline); err != nil {
		return Reply{}, err
	}
	if _, err := c.conn.Write(append(line, '\n')); err != nil {
		return Reply{}, fmt.Errorf("asking the guest to %s: %w", request.Do, err)
	}
	line, err = c.replies.ReadBytes('\n')
	if err != nil {
		return Reply{}, fmt.Errorf("reading what the guest did to %s: %w", request.Do, err)
	}
	var reply Reply
	if err := json.Unmarshal(line, &reply); err != nil {
		return Reply{}, fmt.Errorf("reading what the guest did to %s: %w", request.Do, err)
	}
	if reply.Error != "" {
		return reply, fmt.Errorf("the guest could not %s: %s", request.Do, reply.Error)
	}
	return reply, nil
}
