package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/bulkhead-dev/bulkhead/local/image"
)

func newRegistryCommand() *cobra.Command {
	var dir, address, cert, key, clientCA string
	command := &cobra.Command{
		Use:    "registry",
		Short:  "Serve the assembled images to the nodes",
		Hidden: true, // it is one of the services that up starts
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			pair, err := tls.LoadX509KeyPair(cert, key)
			if err != nil {
				return err
			}
			ca, err := os.ReadFile(clientCA)
			if err != nil {
				return err
			}
			clients := x509.NewCertPool()
			if !clients.AppendCertsFromPEM(ca) {
				return fmt.Errorf("%s holds no certificate", clientCA)
			}
			return image.Serve(cmd.Context(), dir, address, &tls.Config{
				Certificates: []tls.Certificate{pair},
				ClientCAs:    clients,
				ClientAuth:   tls.RequireAndVerifyClientCert,
				MinVersion:   tls.VersionTLS12,
			})
		},
	}
	flags := command.Flags()
	flags.StringVar(&dir, "dir", "", "OCI layout to serve")
	flags.StringVar(&address, "address", "", "address and port to listen on")
	flags.StringVar(&cert, "cert", "", "serving certificate")
	flags.StringVar(&key, "key", "", "its key")
	flags.StringVar(&clientCA, "client-ca", "", "authority of the clients' certificates")
	for _, name := range []string{"dir", "address", "cert", "key", "client-ca"} {
		_ = command.MarkFlagRequired(name)
	}
	return command
}
