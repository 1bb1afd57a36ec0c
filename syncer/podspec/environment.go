package podspec

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/bulkhead-dev/bulkhead/internal/tenancy"
)

// maxServiceLinks bounds, in bytes, what the environment of one container may take
// up with the addresses of Services, so that the pod still fits the API. A pod that
// needs so many has to ask DNS.
const maxServiceLinks = 128 << 10

// apiServerService is the Service of the apiserver, which every pod is told about.
const apiServerService = "kubernetes"

// environment rewrites references and adds what the kubelet would: the super
// cluster's kubelet knows the super cluster's Services, the pod lives by the tenant's.
func (t *translator) environment() {
	links := false
	t.out.EnableServiceLinks = &links
	services := t.serviceVariables()
	t.containers(func(path string, c *corev1.Container) {
		for i := range c.EnvFrom {
			if ref := c.EnvFrom[i].ConfigMapRef; ref != nil {
				ref.Name = tenancy.SuperConfigMap(ref.Name)
			}
		}
		for i := range c.Env {
			t.variable(fmt.Sprintf("%s.env[%d].valueFrom", path, i), &c.Env[i])
		}
		own := t.ownVariables(c)
		// First, so that the container's own variables can refer to them.
		c.Env = slices.Concat(slices.DeleteFunc(slices.Clone(services), func(v corev1.EnvVar) bool { return own[v.Name] }), c.Env)
	})
}

func (t *translator) variable(path string, variable *corev1.EnvVar) {
	source := variable.ValueFrom
	switch {
	case source == nil:
	case source.ConfigMapKeyRef != nil:
		source.ConfigMapKeyRef.Name = tenancy.SuperConfigMap(source.ConfigMapKeyRef.Name)
	case source.FieldRef != nil:
		if value, fixed := t.literal(source.FieldRef.FieldPath); fixed {
			variable.Value, variable.ValueFrom = value, nil
			return
		}
		t.checkField(path+".fieldRef", source.FieldRef)
	}
}

// ownVariables are the names that a container defines itself. They win over those
// of Services.
func (t *translator) ownVariables(c *corev1.Container) map[string]bool {
	own := map[string]bool{}
	for _, variable := range c.Env {
		own[variable.Name] = true
	}
	for _, source := range c.EnvFrom {
		var keys []string
		switch {
		case source.ConfigMapRef != nil:
			keys = t.ConfigMapKeys[tenancy.TenantConfigMap(source.ConfigMapRef.Name)]
		case source.SecretRef != nil:
			keys = t.SecretKeys[source.SecretRef.Name]
		}
		for _, key := range keys {
			own[source.Prefix+key] = true
		}
	}
	return own
}

// serviceVariables are the variables for the pod's Services, as the kubelet sets
// them: the apiserver's always, those of its namespace unless it has no service links.
func (t *translator) serviceVariables() []corev1.EnvVar {
	links := t.in.EnableServiceLinks == nil || *t.in.EnableServiceLinks
	byName := map[string]*corev1.Service{}
	for _, service := range t.Services {
		switch {
		case service.Spec.ClusterIP == "" || service.Spec.ClusterIP == corev1.ClusterIPNone || len(service.Spec.Ports) == 0:
		case service.Namespace == t.Pod.Namespace && links:
			byName[service.Name] = service
		case service.Namespace == metav1.NamespaceDefault && service.Name == apiServerService:
			if byName[service.Name] == nil {
				byName[service.Name] = service
			}
		}
	}
	services := make([]*corev1.Service, 0, len(byName))
	for _, service := range byName {
		services = append(services, service)
	}
	slices.SortFunc(services, func(a, b *corev1.Service) int {
		// The apiserver first: it is never left out.
		if first := (b.Name == apiServerService); first != (a.Name == apiServerService) {
			if first {
				return 1
			}
			return -1
		}
		return strings.Compare(a.Name, b.Name)
	})
	var variables []corev1.EnvVar
	size := 0
	for i, service := range services {
		for _, variable := range serviceLink(service) {
			size += len(variable.Name) + len(variable.Value)
			variables = append(variables, variable)
		}
		if size > maxServiceLinks {
			t.ignore("spec.enableServiceLinks", fmt.Sprintf("the environment holds the addresses of the first %d services only", i+1))
			break
		}
	}
	return variables
}

// serviceLink makes the variables for one Service. Their names and form are those
// of https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables.
func serviceLink(service *corev1.Service) []corev1.EnvVar {
	prefix, address := variableName(service.Name), service.Spec.ClusterIP
	variables := []corev1.EnvVar{
		{Name: prefix + "_SERVICE_HOST", Value: address},
		{Name: prefix + "_SERVICE_PORT", Value: strconv.Itoa(int(service.Spec.Ports[0].Port))},
	}
	for _, port := range service.Spec.Ports {
		if port.Name != "" {
			variables = append(variables, corev1.EnvVar{Name: prefix + "_SERVICE_PORT_" + variableName(port.Name), Value: strconv.Itoa(int(port.Port))})
		}
	}
	for i, port := range service.Spec.Ports {
		protocol := string(port.Protocol)
		if protocol == "" {
			protocol = string(corev1.ProtocolTCP)
		}
		number := strconv.Itoa(int(port.Port))
		url := strings.ToLower(protocol) + "://" + net.JoinHostPort(address, number)
		if i == 0 {
			variables = append(variables, corev1.EnvVar{Name: prefix + "_PORT", Value: url})
		}
		name := prefix + "_PORT_" + number + "_" + strings.ToUpper(protocol)
		variables = append(variables,
			corev1.EnvVar{Name: name, Value: url},
			corev1.EnvVar{Name: name + "_PROTO", Value: strings.ToLower(protocol)},
			corev1.EnvVar{Name: name + "_PORT", Value: number},
			corev1.EnvVar{Name: name + "_ADDR", Value: address},
		)
	}
	return variables
}

func variableName(name string) string { return strings.ToUpper(strings.ReplaceAll(name, "-", "_")) }
