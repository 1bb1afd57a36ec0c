package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
	"github.com/bulkhead-dev/bulkhead/internal/testenv"
	"github.com/bulkhead-dev/bulkhead/syncer/leader"
	"github.com/bulkhead-dev/bulkhead/syncer/rbac"
)

// The clusters that the tests share: real control planes, without nodes. What a
// scheduler and a kubelet would write, the tests write.
var (
	super    *testenv.Cluster
	clusters [2]*testenv.Cluster
	// superConfig is the kubeconfig of a user with the syncer's own rights.
	superConfig []byte
)

func TestMain(m *testing.M) {
	// A machine that is busy with tests may not renew a lease for that long.
	election = leader.Timing{Duration: 20 * time.Second, RenewDeadline: 16 * time.Second, RetryPeriod: election.RetryPeriod}
	if os.Getenv(asProgram) != "" {
		main()
		return
	}
	flag.Parse()
	code, err := withClusters(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func withClusters(m *testing.M) (int, error) {
	level := zap.Level(zapLevel())
	ctrl.SetLogger(zap.New(zap.WriteTo(os.Stderr), zap.UseDevMode(true), level))
	dir, err := os.MkdirTemp("", "syncer-test")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	superDir := filepath.Join(dir, "0")
	if err := os.Mkdir(superDir, 0o700); err != nil {
		return 0, err
	}
	auditing, err := auditArguments(superDir)
	if err != nil {
		return 0, err
	}
	tenants := testenv.Options{ControllerManager: true}
	all, err := testenv.StartAll(ctx, dir, testenv.Options{ControllerManager: true, CRDs: true, APIServerArgs: auditing}, tenants, tenants)
	if err != nil {
		return 0, err
	}
	for _, cluster := range all {
		defer cluster.Stop()
	}
	super, clusters[0], clusters[1] = all[0], all[1], all[2]
	if superConfig, err = super.Grant(ctx, "bulkhead-test:syncer", append(rbac.SuperRules(), rbac.PlatformNamespaceRules()...)); err != nil {
		return 0, err
	}
	return m.Run(), nil
}

// grantTenant prepares a tenant's cluster for the syncer, once.
var grantTenant = sync.OnceValues(func() ([2][]byte, error) {
	var configs [2][]byte
	for i, cluster := range clusters {
		config, err := cluster.Grant(context.Background(), tenancy.UserSyncer, rbac.TenantRules())
		if err != nil {
			return configs, err
		}
		configs[i] = config
	}
	return configs, nil
})
