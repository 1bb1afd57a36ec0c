package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"

	"github.com/bulkhead-dev/bulkhead/internal/unixsocket"
)

// answerLimit bounds an answer in bytes.
const answerLimit = 256 << 20

// Client asks a Server.
type Client struct{ socket string }

// NewClient makes a client of the server at the socket.
func NewClient(socket string) *Client { return &Client{socket: socket} }

// Get asks a question and decodes the answer.
func (c *Client) Get(ctx context.Context, path string, parameters url.Values, into any) error {
	return c.do(ctx, http.MethodGet, path, parameters, into)
}

// Post has something done and decodes the answer.
func (c *Client) Post(ctx context.Context, path string, parameters url.Values, into any) error {
	return c.do(ctx, http.MethodPost, path, parameters, into)
}

func (c *Client) do(ctx context.Context, method, path string, parameters url.Values, into any) error {
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return unixsocket.Dial(ctx, c.socket)
		},
	}}
	request, err := http.NewRequestWithContext(ctx, method, "http://cri-ext"+path+"?"+parameters.Encode(), nil)
	if err != nil {
		return fmt.Errorf("asking cri-ext: %w", err)
	}
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("asking cri-ext: is it running, are you root, and is --admin right? %w", err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, answerLimit))
	if err != nil {
		return fmt.Errorf("reading cri-ext's answer: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s", bytes.TrimSpace(data))
	}
	if text, ok := into.(*[]byte); ok {
		*text = data
		return nil
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("reading cri-ext's answer: %w", err)
	}
	return nil
}
