//! What waits, as futures: on an executor that knows nothing of the device they give what their blocking twins give.

use std::pin::pin;
use std::task::Poll;

use shadegrad::checkpoint::{self, Checkpoint, Metadata};
use shadegrad::data::CharTokenizer;
use shadegrad::nn::{Gpt, GptConfig, ParameterBuilder, Parameters};
use shadegrad::ops::CrossEntropy;
use shadegrad::optim::{AdamW, AdamWConfig, Optimizer, Reports};
use shadegrad::sampling::{Sampler, SamplingConfig};
use shadegrad::{Device, DeviceOptions, Error, Tape, Tensor, metrics};

use crate::common::device;

const TOKENS: [u32; 8] = [0, 5, 13, 13, 1, 0, 7, 2];

fn model(device: &Device) -> (Gpt, Parameters, AdamW) {
    let mut builder = ParameterBuilder::new(42);
    let config = GptConfig {
        n_layers: 1,
        ..GptConfig::new(27)
    };
    let gpt = Gpt::new(&config, &mut builder).unwrap();
    let parameters = builder.build(device).unwrap();
    let optimizer = AdamW::new(&parameters, AdamWConfig::default()).unwrap();
    (gpt, parameters, optimizer)
}

fn loss<'t>(gpt: &Gpt, tape: &'t Tape) -> shadegrad::Var<'t> {
    let [inputs, targets] = [&TOKENS[..7], &TOKENS[1..]].map(|ids| tape.input([1, 7], ids));
    gpt.loss(inputs, targets, CrossEntropy::default())
}

#[test]
fn futures_give_what_blocking_calls_give() {
    let device = device();
    let (gpt, parameters, mut optimizer) = model(device);
    let mut reports = Reports::default();
    let mut train = |reports: &mut Reports| {
        let tape = Tape::training(device);
        reports.push(optimizer.step(&tape, loss(&gpt, &tape), 0.01).fetch());
        tape.run().unwrap();
    };
    let (mut blocking, mut awaited) = (Vec::new(), Vec::new());
    for _ in 0..6 {
        train(&mut reports);
        blocking.extend(reports.take(2).unwrap().map(|metrics| metrics.loss));
    }
    while let Some(metrics) = reports.take(0).unwrap() {
        blocking.push(metrics.loss);
    }

    let (gpt, parameters_awaited, mut optimizer_awaited) = model(device);
    pollster::block_on(async {
        for step in 0..6 {
            let tape = Tape::training(device);
            reports.push(
                optimizer_awaited
                    .step(&tape, loss(&gpt, &tape), 0.01)
                    .fetch(),
            );
            tape.run().unwrap();
            let most = if step == 5 { 0 } else { 2 };
            while let Some(metrics) = reports.take_async(most).await.unwrap() {
                awaited.push(metrics.loss);
            }
        }
        device.wait_async().await.unwrap();
    });
    assert_eq!(blocking, awaited);
    assert_eq!(
        parameters.to_host().unwrap(),
        pollster::block_on(parameters_awaited.to_host_async()).unwrap()
    );

    let awaited = metrics::mean_async(device, 0..9, |tape, _| (loss(&gpt, tape), 7));
    let blocking = metrics::mean(device, 0..9, |tape, _| (loss(&gpt, tape), 7));
    assert_eq!(pollster::block_on(awaited).unwrap(), blocking.unwrap());

    let draw = |config| [Sampler::new(config, 3).unwrap()];
    let mut samplers = draw(SamplingConfig::default());
    let blocking = gpt.generate_batch(&[[0]], 9, &mut samplers, None).unwrap();
    let mut samplers = draw(SamplingConfig::default());
    let awaited = pollster::block_on(async {
        let mut tokens = Vec::new();
        let mut generation = gpt.generation(&[[0]], 9, &mut samplers, None).unwrap();
        while let Some(next) = generation.next_async().await {
            tokens.push(next.unwrap().token);
        }
        tokens
    });
    assert_eq!(blocking, [awaited]);

    let path = std::env::temp_dir().join(format!("shadegrad-waiting-{}", std::process::id()));
    let tokenizer = CharTokenizer::from_text("\nabcdefghijklmnopqrstuvwxyz").unwrap();
    let metadata = Metadata::of(gpt.config(), &tokenizer);
    let optimizer: Option<&dyn Optimizer> = Some(&optimizer_awaited);
    checkpoint::save(&path, &parameters_awaited, optimizer, &metadata).unwrap();
    let saved = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let bytes = checkpoint::to_bytes(&parameters_awaited, optimizer, &metadata);
    assert!(saved == pollster::block_on(bytes).unwrap());
    let read = Checkpoint::from_bytes(&saved, "in memory").unwrap();
    assert_eq!(read.metadata, metadata);
    let (_, again) = read.gpt(device).unwrap();
    assert_eq!(
        again.to_host().unwrap(),
        parameters_awaited.to_host().unwrap()
    );
    let truncated = Checkpoint::from_bytes(&saved[..saved.len() - 1], "in memory");
    let said = truncated.unwrap_err().to_string();
    assert!(
        said.contains("in memory") && said.contains("truncated"),
        "{said}"
    );
}

/// Each is woken, whichever comes first, and polled more often than it need be.
#[test]
fn many_wait_at_the_same_time() {
    let device = device();
    let tensors = (0..20).map(|i| Tensor::new(device, [2], &[i as f32, 1.0]).unwrap());
    let tensors: Vec<Tensor> = tensors.collect();
    let mut futures: Vec<_> = tensors
        .iter()
        .map(|tensor| Some(Box::pin(tensor.to_vec_async::<f32>())))
        .collect();
    let mut values = vec![Vec::new(); futures.len()];
    let all = std::future::poll_fn(|cx| {
        for (future, value) in futures.iter_mut().zip(&mut values) {
            if let Some(waiting) = future
                && let Poll::Ready(got) = waiting.as_mut().poll(cx)
            {
                *value = got.unwrap();
                *future = None;
            }
        }
        match futures.iter().all(Option::is_none) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    });
    pollster::block_on(pin!(all));
    for (i, value) in values.iter().enumerate() {
        assert_eq!(*value, [i as f32, 1.0]);
    }
}

#[test]
fn a_lost_device_ends_the_wait() {
    let device = pollster::block_on(Device::open(&DeviceOptions::default())).unwrap();
    let tape = Tape::inference(&device);
    let sum = tape.fetch::<f32>(tape.input([3], &[1.0, 2.0, 3.0]).sum_all());
    tape.run().unwrap();
    let lost = device.lost();
    device.destroy();
    let error = pollster::block_on(lost);
    assert!(matches!(error, Error::DeviceLost { .. }), "{error:?}");
    let refused = pollster::block_on(sum.ready());
    assert!(
        matches!(refused, Err(Error::DeviceLost { .. })),
        "{refused:?}"
    );
    let refused = pollster::block_on(device.wait_async());
    assert!(
        matches!(refused, Err(Error::DeviceLost { .. })),
        "{refused:?}"
    );
}
