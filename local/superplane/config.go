package superplane

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/bulkhead-dev/bulkhead/local/process"
)

func (b builder) authenticationFile() string {
	return filepath.Join(b.l.Config(), "authentication.yaml")
}

func (b builder) schedulerFile() string { return filepath.Join(b.l.Config(), "scheduler.yaml") }

// authenticationConfig lets those without a certificate or token see whether the
// apiserver is up, and nothing else.
const authenticationConfig = `apiVersion: apiserver.config.k8s.io/v1
kind: AuthenticationConfiguration
anonymous:
  enabled: true
  conditions:
  - path: /livez
  - path: /readyz
  - path: /healthz
`

func (b builder) schedulerConfig() string {
	return fmt.Sprintf(`apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
clientConnection:
  kubeconfig: %s
  qps: 200
  burst: 400
leaderElection:
  leaderElect: false
enableProfiling: false
`, b.pki("scheduler.kubeconfig"))
}

// writeConfig writes the configuration files of the control plane.
func (b builder) writeConfig() error {
	if err := os.MkdirAll(b.l.Config(), 0o700); err != nil {
		return err
	}
	for path, content := range map[string]string{
		b.authenticationFile(): authenticationConfig,
		b.schedulerFile():      b.schedulerConfig(),
	} {
		if err := process.WriteFile(path, []byte(content), 0o600); err != nil {
			return err
		}
	}
	return nil
}
