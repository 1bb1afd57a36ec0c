package tenants

import (
	"context"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/bulkhead-dev/bulkhead/tenant-proxy/compile"
)

// kinds is how many are watched in a tenant's cluster.
const kinds = 3

// Labels by which Services ask to be left to somebody else, and by which slices say
// that they need no proxy; kube-proxy does not watch these either.
const (
	labelProxyName = "service.kubernetes.io/service-proxy-name"
	notOthers      = "!" + labelProxyName
	noHeadless     = notOthers + ",!" + corev1.IsHeadlessService
)

// watch watches a tenant's cluster until its stop is called.
func (l *link) watch(ctx context.Context, credentials Credentials) (stop context.CancelFunc, err error) {
	c, err := newClients(credentials.Kubeconfig)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	l.setRanges(credentials.Ranges)
	l.reporter.use(c.events)
	services, slices, nodes := c.core.Services(metav1.NamespaceAll), c.discovery.EndpointSlices(metav1.NamespaceAll), c.core.Nodes()
	begin := time.Now()
	start(ctx, l, "services", notOthers, &corev1.Service{}, services, &store[*corev1.Service]{
		put: func(service *corev1.Service) {
			compact := compile.NewService(service)
			l.change(ctx, time.Time{}, func(t *compile.Table) bool { return t.PutService(compact) })
		},
		remove: func(service *corev1.Service) {
			name := types.NamespacedName{Namespace: service.Namespace, Name: service.Name}
			l.change(ctx, time.Time{}, func(t *compile.Table) bool { return t.RemoveService(name) })
		},
		replace: func(list []*corev1.Service) {
			compact := make([]*compile.Service, 0, len(list))
			for _, service := range list {
				compact = append(compact, compile.NewService(service))
			}
			l.listed(ctx, "services", func(t *compile.Table) { replaceServices(t, compact) })
		},
		trim: func(service *corev1.Service) {
			trimMeta(&service.ObjectMeta)
			service.Spec.Selector, service.Status.Conditions = nil, nil
		},
	})
	start(ctx, l, "endpointslices", noHeadless, &discoveryv1.EndpointSlice{}, slices, &store[*discoveryv1.EndpointSlice]{
		put: func(slice *discoveryv1.EndpointSlice) {
			compact := compile.NewSlice(l.Node, slice)
			l.change(ctx, triggerOf(slice, begin), func(t *compile.Table) bool { return l.putSlice(t, slice, compact) })
		},
		remove: func(slice *discoveryv1.EndpointSlice) {
			l.change(ctx, time.Time{}, func(t *compile.Table) bool { return l.removeSlice(t, sliceName(slice)) })
		},
		replace: func(list []*discoveryv1.EndpointSlice) {
			compact := make([]*compile.Slice, 0, len(list))
			for _, slice := range list {
				compact = append(compact, compile.NewSlice(l.Node, slice))
			}
			l.listed(ctx, "endpointslices", func(t *compile.Table) { l.replaceSlices(t, list, compact) })
		},
		trim: func(slice *discoveryv1.EndpointSlice) {
			trimMeta(&slice.ObjectMeta)
			slice.Labels = map[string]string{discoveryv1.LabelServiceName: slice.Labels[discoveryv1.LabelServiceName]}
			for i := range slice.Endpoints {
				slice.Endpoints[i].TargetRef = nil
			}
		},
	})
	start(ctx, l, "nodes", "", &corev1.Node{}, nodes, &store[*corev1.Node]{
		put: func(node *corev1.Node) {
			addresses := compile.NodeAddresses(node)
			l.change(ctx, time.Time{}, func(t *compile.Table) bool { return t.PutNode(node.Name, addresses) })
		},
		remove: func(node *corev1.Node) {
			l.change(ctx, time.Time{}, func(t *compile.Table) bool { return t.PutNode(node.Name, nil) })
		},
		replace: func(list []*corev1.Node) {
			l.listed(ctx, "nodes", func(t *compile.Table) {
				gone := map[string]bool{}
				for _, name := range t.Nodes() {
					gone[name] = true
				}
				for _, node := range list {
					t.PutNode(node.Name, compile.NodeAddresses(node))
					delete(gone, node.Name)
				}
				for name := range gone {
					t.PutNode(name, nil)
				}
			})
		},
		trim: func(node *corev1.Node) {
			trimMeta(&node.ObjectMeta)
			node.Spec, node.Status = corev1.NodeSpec{}, corev1.NodeStatus{Addresses: node.Status.Addresses}
		},
	})
	return func() { cancel(); c.close() }, nil
}

func trimMeta(meta *metav1.ObjectMeta) {
	meta.ManagedFields, meta.OwnerReferences, meta.Finalizers = nil, nil, nil
	if trigger, has := meta.Annotations[corev1.EndpointsLastChangeTriggerTime]; has {
		meta.Annotations = map[string]string{corev1.EndpointsLastChangeTriggerTime: trigger}
	} else {
		meta.Annotations = nil
	}
}

func sliceName(slice *discoveryv1.EndpointSlice) types.NamespacedName {
	return types.NamespacedName{Namespace: slice.Namespace, Name: slice.Name}
}

// triggerOf is when what a slice shows happened, zero if that is not known or was
// before we looked.
func triggerOf(slice *discoveryv1.EndpointSlice, begin time.Time) time.Time {
	at, err := time.Parse(time.RFC3339Nano, slice.Annotations[corev1.EndpointsLastChangeTriggerTime])
	if err != nil || at.Before(begin) {
		return time.Time{}
	}
	return at
}

func replaceServices(t *compile.Table, list []*compile.Service) {
	gone := map[types.NamespacedName]bool{}
	for _, name := range t.Services() {
		gone[name] = true
	}
	for _, service := range list {
		t.PutService(service)
		delete(gone, service.NamespacedName)
	}
	for name := range gone {
		t.RemoveService(name)
	}
}

func (l *link) putSlice(t *compile.Table, slice *discoveryv1.EndpointSlice, compact *compile.Slice) bool {
	name, service := sliceName(slice), compile.ServiceOf(slice)
	moved := false
	if before, known := l.sliceOf[name]; known && before != service {
		moved = t.RemoveSlice(before, name.Name)
		delete(l.sliceOf, name)
	}
	if service.Name == "" {
		return moved
	}
	l.sliceOf[name] = service
	return t.PutSlice(service, compact) || moved
}

func (l *link) removeSlice(t *compile.Table, name types.NamespacedName) bool {
	service, known := l.sliceOf[name]
	delete(l.sliceOf, name)
	return known && t.RemoveSlice(service, name.Name)
}

func (l *link) replaceSlices(t *compile.Table, list []*discoveryv1.EndpointSlice, compact []*compile.Slice) {
	gone := maps.Clone(l.sliceOf)
	for i, slice := range list {
		l.putSlice(t, slice, compact[i])
		delete(gone, sliceName(slice))
	}
	for name := range gone {
		l.removeSlice(t, name)
	}
}

// lister is what a typed client of a kind offers.
type lister[L runtime.Object] interface {
	List(context.Context, metav1.ListOptions) (L, error)
	Watch(context.Context, metav1.ListOptions) (watch.Interface, error)
}

// start lists and watches a kind until the context ends. There is no informer in
// between: its store would hold whole objects, of which little is needed.
func start[T client.Object, L runtime.Object](ctx context.Context, l *link, kind, selector string, expected T, client lister[L], into *store[T]) {
	source := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			options.LabelSelector = selector
			list, err := client.List(ctx, options)
			l.outcome(kind, err)
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			options.LabelSelector = selector
			into.gathered = 0 // a stream may begin with a list
			events, err := client.Watch(ctx, options)
			l.outcome(kind, err)
			return events, err
		},
	}
	into.full = func() {
		l.change(ctx, time.Time{}, func(*compile.Table) bool { l.tooLarge(); return false })
	}
	logger := klog.LoggerWithValues(l.log.V(1), "kind", kind)
	reflector := cache.NewReflectorWithOptions(source, expected, into, cache.ReflectorOptions{
		Logger: &logger, Name: "tenant " + string(l.tenant.UID), Backoff: backoff(),
	})
	go reflector.RunWithContext(klog.NewContext(ctx, logger))
}

// weight is what an object counts for.
func weight(object runtime.Object) int {
	if slice, ok := object.(*discoveryv1.EndpointSlice); ok {
		return 1 + len(slice.Endpoints) + len(slice.Ports)
	}
	if service, ok := object.(*corev1.Service); ok {
		return 1 + len(service.Spec.Ports)
	}
	return 1
}

// backoff is how long to wait before an apiserver that failed is asked again.
func backoff() *wait.Backoff {
	return &wait.Backoff{Duration: 500 * time.Millisecond, Factor: 2, Jitter: 0.5, Steps: 6, Cap: 10 * time.Second}
}

// store hands on what a reflector reads.
type store[T client.Object] struct {
	put, remove func(T)
	replace     func([]T)
	// trim drops what is not needed while a list is gathered.
	trim func(T)
	// full is told when a list grows beyond what is held, before it is whole; gathered
	// is how much it has so far. Only the reflector's goroutine uses it.
	full     func()
	gathered int
}

var _ cache.TransformingStore = (*store[*corev1.Service])(nil)

// Add is part of cache.ReflectorStore, as are the other methods.
func (s *store[T]) Add(object any) error { return s.Update(object) }

// Update takes an object in.
func (s *store[T]) Update(object any) error {
	if typed, ok := object.(T); ok {
		s.put(typed)
	}
	return nil
}

// Delete drops an object.
func (s *store[T]) Delete(object any) error {
	if typed, ok := object.(T); ok {
		s.remove(typed)
	}
	return nil
}

// Replace takes in a whole list.
func (s *store[T]) Replace(objects []any, _ string) error {
	list := make([]T, 0, len(objects))
	for _, object := range objects {
		if typed, ok := object.(T); ok {
			list = append(list, typed)
		}
	}
	s.replace(list)
	return nil
}

// Resync does nothing: what is held was handed on.
func (s *store[T]) Resync() error { return nil }

// Transformer trims objects while a list is gathered, and ends one without end.
func (s *store[T]) Transformer() cache.TransformFunc {
	return func(object any) (any, error) {
		if typed, ok := object.(T); ok {
			s.trim(typed)
			before := s.gathered
			s.gathered += weight(typed)
			if before <= compile.MaxWeight && s.gathered > compile.MaxWeight {
				s.full()
			}
		}
		return object, nil
	}
}
