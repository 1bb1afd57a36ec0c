package image

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	stdlog "log"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sys/unix"

	"github.com/bulkhead-dev/bulkhead/local/progress"
)

const (
	// answerTimeout bounds one answer, the largest blob included.
	answerTimeout = 10 * time.Minute
	// stopTimeout is how long requests may go on once the server is to end.
	stopTimeout = 5 * time.Second
)

// Serve serves the OCI layout in dir as a read-only OCI distribution registry
// on addr until ctx ends, when it returns nil. It speaks TLS 1.2 or newer with
// tlsConfig's certificate, and requires of each client a certificate that
// tlsConfig.ClientCAs verifies. It reads the index of the layout at start and
// again whenever it has changed. The registry for which a name is asked is the
// query parameter ns, as containerd sends it to a mirror. It logs to the logger
// in ctx, if there is one.
func Serve(ctx context.Context, dir, addr string, tlsConfig *tls.Config) error {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if errors.Is(err, unix.EADDRINUSE) {
		return &progress.LogError{
			Err:  fmt.Errorf("%s, where the image registry is to listen, is taken by another program: %w", addr, err),
			Hint: "End that program, or choose another address.",
		}
	}
	if err != nil {
		return fmt.Errorf("listening for the image registry on %s: %w", addr, err)
	}
	return serve(ctx, dir, listener, tlsConfig)
}

// serve is Serve on a listener, which it closes.
func serve(ctx context.Context, dir string, listener net.Listener, tlsConfig *tls.Config) error {
	defer listener.Close()
	secure, err := mutual(tlsConfig)
	if err != nil {
		return fmt.Errorf("serving images: %w", err)
	}
	images, err := openSource(dir)
	if err != nil {
		return fmt.Errorf("serving images: %w", err)
	}
	log := logr.FromContextOrDiscard(ctx)
	server := &http.Server{
		Handler:           registry{source: images, log: log},
		TLSConfig:         secure,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      answerTimeout,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          stdlog.New(connectionLog{log}, "", 0),
	}
	ended := make(chan error, 1)
	go func() { ended <- server.ServeTLS(listener, "", "") }()
	select {
	case err := <-ended:
		return fmt.Errorf("serving images: %w", err)
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	if err := server.Shutdown(stop); err != nil {
		// Clients that are still reading try again elsewhere.
		_ = server.Close()
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving images: %w", err)
	}
	return nil
}

// mutual returns the configuration with what must not be left out of it.
func mutual(config *tls.Config) (*tls.Config, error) {
	if config == nil || (len(config.Certificates) == 0 && config.GetCertificate == nil) {
		return nil, errors.New("no serving certificate was given")
	}
	if config.ClientCAs == nil {
		// The machine's own authorities would do, which sign certificates for anyone.
		return nil, errors.New("no authority of client certificates was given")
	}
	config = config.Clone()
	config.MinVersion = max(config.MinVersion, tls.VersionTLS12)
	config.ClientAuth = tls.RequireAndVerifyClientCert
	return config, nil
}

// connectionLog takes what net/http says of connections that came to nothing,
// such as those of clients without a certificate.
type connectionLog struct{ log logr.Logger }

func (c connectionLog) Write(p []byte) (int, error) {
	c.log.Info("Connection failed", "reason", strings.TrimSpace(string(p)))
	return len(p), nil
}
