//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/go-logr/logr"

	"github.com/bulkhead-dev/bulkhead/internal/kubeconfig"
	"github.com/bulkhead-dev/bulkhead/internal/testenv"
)

// super is the embedded super cluster, shared by all tests.
var super struct {
	root       string
	kubeconfig string
	config     *rest.Config
	client     client.Client
}

func TestMain(m *testing.M) {
	log.SetLogger(logr.Discard())
	if err := bringUp(); err != nil {
		fmt.Fprintln(os.Stderr, "FAIL: bringing up the embedded super cluster:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// bringUp runs `local up`, which does little where the cluster runs already.
func bringUp() error {
	root, err := testenv.Root()
	if err != nil {
		return err
	}
	super.root = root
	super.kubeconfig = filepath.Join(root, ".local", "super.kubeconfig")
	if err := local(context.Background(), "up"); err != nil {
		return err
	}
	return connect()
}

func connect() error {
	data, err := os.ReadFile(super.kubeconfig)
	if err != nil {
		return err
	}
	if super.config, err = kubeconfig.RESTConfig(data); err != nil {
		return err
	}
	super.config.QPS, super.config.Burst = 200, 400
	super.client, err = client.New(super.config, client.Options{Scheme: testenv.Scheme()})
	return err
}

// local runs bin/local with a deadline; its output goes to the test's log.
func local(ctx context.Context, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, 25*time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, bin("local"), args...)
	command.Dir = super.root
	command.Stdout, command.Stderr = os.Stdout, os.Stderr
	return command.Run()
}

func bin(name string) string { return filepath.Join(super.root, "bin", name) }
