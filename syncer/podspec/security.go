package podspec

import (
	"strings"

	psaapi "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"

	tenancyv1alpha1 "github.com/bulkhead-dev/bulkhead/api/tenancy/v1alpha1"
)

// standards are the Pod Security Standards of the pinned Kubernetes version.
var standards = newStandards()

func newStandards() policy.Evaluator {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		panic(err) // the library's own checks do not fit together
	}
	return evaluator
}

// security applies the class's Pod Security Standard and its sandbox (D4).
func (t *translator) security() {
	level := psaapi.LevelVersion{Level: Level(t.Tenant.PodSecurity), Version: psaapi.LatestVersion()}
	for _, result := range standards.EvaluatePod(level, &t.Pod.ObjectMeta, t.in) {
		if !result.Allowed {
			t.refuse("spec", "pod security standard "+string(level.Level)+": "+result.ForbiddenReason+": "+result.ForbiddenDetail)
		}
	}
	t.runtime()
	// A user namespace of its own sets the pod further apart; the node's is the default.
	if users := t.in.HostUsers; users != nil && !*users {
		t.out.HostUsers = users
	}
}

// runtime names the RuntimeClass that the pod asks for, if it is offered, or the one of
// all pods. Its overhead comes from the super cluster's: where the pod has one, the
// tenant's apiserver has put it there.
func (t *translator) runtime() {
	name := t.Tenant.RuntimeClassName
	switch asked := t.in.RuntimeClassName; {
	case asked == nil && len(t.in.Overhead) > 0:
		t.ignore("spec.overhead", ruleOverhead)
	case asked == nil:
	case t.Tenant.OffersRuntimeClass(*asked):
		name = *asked
	default:
		t.refuse("spec.runtimeClassName", ruleRuntime)
	}
	if name != "" {
		t.out.RuntimeClassName = &name
	}
}

// Level is the level's name in Pod Security admission. A level it does not know is
// the strictest one.
func Level(level tenancyv1alpha1.PodSecurityLevel) psaapi.Level {
	switch level {
	case tenancyv1alpha1.PodSecurityPrivileged:
		return psaapi.LevelPrivileged
	case tenancyv1alpha1.PodSecurityBaseline:
		return psaapi.LevelBaseline
	default:
		return psaapi.LevelRestricted
	}
}

// nodeAnnotations are the domains under which runtimes, network plugins and device
// plugins take orders from a pod's annotations, past all other rules.
var nodeAnnotations = []string{
	"io.katacontainers",
	"io.containerd",
	"io.kubernetes.cri-o",
	"io.kubernetes.cri",
	"run.oci",
	"dev.gvisor",
	"cdi.k8s.io",
	"k8s.v1.cni.cncf.io",
	"v1.multus-cni.io",
	"cni.projectcalico.org",
	"kubernetes.io/ingress-bandwidth",
	"kubernetes.io/egress-bandwidth",
}

// refusedAnnotation gives the rule against an annotation, or "".
func refusedAnnotation(key string) string {
	for _, prefix := range nodeAnnotations {
		if rest, found := strings.CutPrefix(key, prefix); found && (rest == "" || rest[0] == '.' || rest[0] == '/') {
			return "annotations under " + prefix + " give orders to the node"
		}
	}
	return ""
}
