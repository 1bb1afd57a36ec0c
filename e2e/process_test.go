//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// killPods sends SIGKILL to the main processes of a component's containers, found
// by the pod's UID in their cgroup, and returns how many it killed.
func killPods(t *testing.T, namespace string, labels client.MatchingLabels, program string) int {
	t.Helper()
	var pods corev1.PodList
	if err := super.client.List(t.Context(), &pods, client.InNamespace(namespace), labels); err != nil {
		t.Fatal(err)
	}
	killed := 0
	for _, pod := range pods.Items {
		for _, pid := range podProcesses(t, string(pod.UID), program) {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Logf("killing %s (%d) of pod %s: %v", program, pid, pod.Name, err)
				continue
			}
			killed++
		}
	}
	return killed
}

// podProcesses lists the processes of a pod that run the program.
func podProcesses(t *testing.T, podUID, program string) []int {
	t.Helper()
	return processes(t, func(dir string) bool {
		name, _, _ := strings.Cut(read(dir, "cmdline"), "\x00")
		cgroup := read(dir, "cgroup")
		return filepath.Base(name) == program && (strings.Contains(cgroup, podUID) || strings.Contains(cgroup, strings.ReplaceAll(podUID, "-", "_")))
	})
}

// clusterProcesses lists all living processes in the embedded cluster's cgroups.
// Dead ones that nobody has waited for yet do not count.
func clusterProcesses(t *testing.T) []int {
	t.Helper()
	return processes(t, func(dir string) bool {
		return strings.Contains(read(dir, "cgroup"), "/bulkhead-local") && !strings.Contains(read(dir, "status"), "State:\tZ")
	})
}

// processes lists the machine's processes that match says are meant, by their
// folders in /proc.
func processes(t *testing.T, match func(dir string) bool) []int {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, entry := range entries {
		if pid, err := strconv.Atoi(entry.Name()); err == nil && match(filepath.Join("/proc", entry.Name())) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// read returns a file of a process, or nothing where the process has ended meanwhile.
func read(dir, name string) string {
	data, _ := os.ReadFile(filepath.Join(dir, name))
	return string(data)
}

// restarts counts the container restarts of a component's pods.
func restarts(ctx context.Context, namespace string, labels client.MatchingLabels) (int32, error) {
	var pods corev1.PodList
	if err := super.client.List(ctx, &pods, client.InNamespace(namespace), labels); err != nil {
		return 0, err
	}
	var sum int32
	for _, pod := range pods.Items {
		for _, status := range pod.Status.ContainerStatuses {
			sum += status.RestartCount
		}
	}
	if len(pods.Items) == 0 {
		return 0, fmt.Errorf("no pod in %s has %v", namespace, labels)
	}
	return sum, nil
}
